"""``mis construct --source stages`` and ``--relabel``: open the teachers that the settings name, and let them work.

A teacher is ``builtin``, ``http://HOST:PORT/v1#MODEL`` (``#MODEL`` may be left out if the server has just one),
``local:PATH`` or ``local:mini``. An image maker is ``drawn``, ``URL#MODEL``, ``diffusers`` or ``diffusers:MODEL``.
"""

import asyncio
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from mis_lib.clients.cache import Cache
from mis_lib.clients.images import scaled_in_words
from mis_lib.clients.protocol import ChatModel, ImageMaker
from mis_lib.construct.relabel import STAGE, Relabelled, relabel
from mis_lib.construct.stages.context import Context, TeacherRole, read_prompts
from mis_lib.construct.stages.inputs import REVIEW, ReviewDecision, built_in_seeds, read_decisions, read_seeds
from mis_lib.construct.stages.offline import DrawnImages, OfflineTeacher
from mis_lib.construct.stages.pipeline import CONCURRENCY, NAMES, STAGES, build, check_folder, locked
from mis_lib.construct.stages.records import Account, Seed
from mis_lib.data.sources import find_source, load
from mis_lib.errors import SettingsError
from mis_lib.files import write_atomic
from mis_lib.recipes.progress import bars, say
from mis_lib.schema import Split
from mis_lib.settings import IMAGE_PIXELS, ImagePixels, Settings, dump_settings

ITEMS = 200
CONFIG, CACHE = "config.yaml", "cache"
OF_SEEDS = ("items", "per_seed", "seeds", "judge", "images", "decisions", "review_required")
"""Settings that a relabelling has no use for."""


class ConstructSettings(Settings):
    """What is constructed and by which models; every default works with this package alone."""

    items: int | None = Field(default=None, ge=1)
    """At most so many items (default: 200 of the built-in seeds, or all of a seed file)."""
    per_seed: int = Field(default=2, ge=1, le=8)
    """At most so many items of one seed."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """The same seed and replies give the same items."""
    seeds: Path | None = None
    """Seed set, CSV or JSON Lines (default: the hazards of the element table)."""
    teacher: str = "builtin"
    """The model that writes: builtin, URL#MODEL, local:PATH or local:mini."""
    vision_teacher: str | None = None
    """The model that looks at images and writes labels (default: the teacher)."""
    judge: str | None = None
    """The model that decides (default: the teacher)."""
    images: str = "drawn"
    """What makes images: drawn, URL#MODEL, diffusers or diffusers:MODEL."""
    prompts: Path | None = None
    """Folder with prompt files that replace the built-in ones."""
    decisions: Path | None = None
    """People's decisions (CSV or JSON Lines), added to those in OUT/review.csv; each is about its ``content`` only."""
    review_required: bool = False
    """Items without a person's decision stay pending."""
    concurrency: int = Field(default=CONCURRENCY, ge=1, le=256)
    """Records worked on at a time."""
    retries: int = Field(default=5, ge=0, le=20)
    """Further attempts of a call to a server that failed."""
    max_new_tokens: int = Field(default=1024, ge=16)
    """Longest answer of a teacher, in tokens; reasoning models need more."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds for one call to a server."""
    image_pixels: ImagePixels = IMAGE_PIXELS
    """Most pixels of an image that a server is sent; larger ones are scaled down."""
    device: str = "auto"
    """Where a local teacher or a diffusion model runs: auto (a CUDA GPU if there is one), cpu, cuda, ..."""


class Constructed(NamedTuple):
    """What came out of the stages."""

    account: Account
    calls: dict[str, int]
    """How many calls were paid for now, and how many were answered from the cache."""
    left_out: dict[str, dict[str, str]]
    """Of each server, what it does not take and why."""


def construct_with_teachers(out: Path, settings: ConstructSettings, *, stage: str | None) -> Constructed:
    """Run the stages, or one of them.

    Raises:
        MisError: a setting, file, folder or teacher cannot be used; the message says which and why.
    """
    if stage is not None and stage not in NAMES:  # before the folder is touched
        raise SettingsError(f"stage: expected one of {', '.join(NAMES)}, found {stage!r}")
    seeds = _seeds(settings)
    check_folder(out)
    cache = Cache(out / STAGES / CACHE)

    async def run() -> Account:
        context = await open_context(out, settings, cache)
        (out / STAGES).mkdir(parents=True, exist_ok=True)
        write_atomic(out / CONFIG, dump_settings(settings).encode())
        with bars(kept=True) as progress:
            return await build(seeds, context, only=stage, concurrency=settings.concurrency, progress=progress)

    account = asyncio.run(run())
    if words := scaled_in_words(len(cache.scaled), settings.image_pixels):
        say(words)
    return Constructed(account, {"paid_now": cache.paid, "from_cache": cache.found}, cache.left_out)


class Relabelling(NamedTuple):
    """What came of a relabelling."""

    made: Relabelled
    calls: dict[str, int]
    """As in ``Constructed``."""
    left_out: dict[str, dict[str, str]]
    """As in ``Constructed``."""


def relabel_with_teacher(data: Path, out: Path, settings: ConstructSettings) -> Relabelling:
    """Have a teacher write safety chains of thought for the harmful rows of a data file, or of a folder's split train.

    Raises:
        MisError: a setting, file, folder or teacher cannot be used; the message says which and why.
    """
    fields = ConstructSettings.model_fields
    if wrong := [name for name in OF_SEEDS if getattr(settings, name) != fields[name].default]:
        raise SettingsError(f"{wrong[0]} does not go with --relabel, which makes no new items; leave it out")
    name = settings.vision_teacher or settings.teacher
    if name == "builtin":
        raise SettingsError(
            "--relabel: expected a teacher that looks at images, found builtin, which knows its own seeds alone; "
            "name one with --teacher URL or local:PATH"
        )
    source = find_source(data, split=Split.TRAIN.value if data.is_dir() else None)
    samples, prompt = load(source), read_prompts(settings.prompts)[STAGE]
    check_folder(out)
    cache = Cache(out / STAGES / CACHE)

    async def run() -> Relabelled:
        teacher = await open_teacher(name, settings, cache)
        with locked(out):
            write_atomic(out / CONFIG, dump_settings(settings).encode())
            with bars(kept=True) as progress:
                return await relabel(
                    samples,
                    source.folder,
                    out,
                    teacher,
                    prompt,
                    seed=settings.seed,
                    max_tokens=settings.max_new_tokens,
                    concurrency=settings.concurrency,
                    progress=progress,
                )

    made = asyncio.run(run())
    if words := scaled_in_words(len(cache.scaled), settings.image_pixels):
        say(words)
    return Relabelling(made, {"paid_now": cache.paid, "from_cache": cache.found}, cache.left_out)


async def open_context(out: Path, settings: ConstructSettings, cache: Cache | None = None) -> Context:
    """Teachers, image maker, prompts and people's decisions of a construction in ``out``.

    Raises:
        MisError: a teacher, prompt folder or decision cannot be used.
    """
    prompts, decisions = read_prompts(settings.prompts), _decisions(out, settings)
    teachers, maker = await _open_all(settings, cache or Cache(out / STAGES / CACHE))
    return Context(
        teachers,
        maker,
        prompts,
        out,
        seed=settings.seed,
        per_seed=settings.per_seed,
        decisions=decisions,
        max_tokens=settings.max_new_tokens,
        seeds_folder=settings.seeds.parent if settings.seeds else None,
        review_required=settings.review_required,
    )


async def open_teacher(name: str, settings: ConstructSettings, cache: Cache) -> ChatModel:
    """The teacher of that name.

    Raises:
        SettingsError: there is no such kind, or the server has several models.
        ModelError: the local model is missing.
    """
    if name == "builtin":
        return OfflineTeacher(settings.seed)
    if name.startswith("local:"):
        from mis_lib.clients.local import LocalChat
        from mis_lib.models.devices import device_for

        return LocalChat(_checkpoint(name.removeprefix("local:")), cache, device_for(settings.device))
    if _is_url(name):
        from mis_lib.clients.openai import ServerChat, open_model

        client, model = await open_model(name, retries=settings.retries, timeout=settings.timeout)
        return ServerChat(client, model, cache, settings.image_pixels)
    raise SettingsError(
        f"teacher: expected builtin, a URL such as http://localhost:8000/v1, or local:PATH, found {name!r}"
    )


async def open_maker(name: str, settings: ConstructSettings, cache: Cache) -> ImageMaker:
    """The image maker of that name; raises what ``open_teacher`` raises, or ``MissingPackageError``."""
    if name == "drawn":
        return DrawnImages()
    if name == "diffusers" or name.startswith("diffusers:"):
        from mis_lib.clients.diffusion import DEFAULT_MODEL, DiffusionImages
        from mis_lib.models.devices import device_for

        model = name.removeprefix("diffusers").lstrip(":") or DEFAULT_MODEL
        return DiffusionImages(model, cache, device_for(settings.device))
    if _is_url(name):
        from mis_lib.clients.openai import ServerImages, open_model

        client, model = await open_model(name, retries=settings.retries, timeout=settings.timeout)
        return ServerImages(client, model, cache)
    raise SettingsError(f"images: expected drawn, a URL, diffusers or diffusers:MODEL, found {name!r}")


async def _open_all(settings: ConstructSettings, cache: Cache) -> tuple[dict[TeacherRole, ChatModel], ImageMaker]:
    """Teachers by role, one object for equal names, and the image maker."""
    names = {
        TeacherRole.WRITER: settings.teacher,
        TeacherRole.VIEWER: settings.vision_teacher or settings.teacher,
        TeacherRole.JUDGE: settings.judge or settings.teacher,
    }
    opened = {name: await open_teacher(name, settings, cache) for name in dict.fromkeys(names.values())}
    return {role: opened[name] for role, name in names.items()}, await open_maker(settings.images, settings, cache)


def _seeds(settings: ConstructSettings) -> list[Seed]:
    if settings.seeds is None:
        return built_in_seeds(settings.items or ITEMS, settings.per_seed, settings.seed)
    found = read_seeds(settings.seeds)
    return found if settings.items is None else found[: -(-settings.items // settings.per_seed)]


def _decisions(out: Path, settings: ConstructSettings) -> dict[str, ReviewDecision]:
    """The decisions in the table that an earlier run wrote; those of a file replace them."""
    table = out / REVIEW
    known = read_decisions(table) if table.exists() else {}
    return known | (read_decisions(settings.decisions) if settings.decisions else {})


def _checkpoint(path: str) -> Path:
    if path != "mini":
        return Path(path)
    from mis_lib.models.mini.assemble import ensure_mini

    return ensure_mini(say)


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))
