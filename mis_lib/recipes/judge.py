"""``mis judge``: any number of judges rule on the answers of a run, each into a separate verdict file.

A judge is named on the command line as ``[NAME:]KIND[=TARGET]``, where TARGET is ``URL#MODEL`` (any OpenAI-compatible
server), ``local:PATH`` or ``local:mini``: ``rule``, ``rubric=http://localhost:8000/v1#gpt-4o``,
``strict:guard=local:/models/Llama-Guard-3-8B``. A panel is made of judges named with it: ``panel=rule,rubric``.
Verdicts are appended as they come and sorted in the order of the answers at the end, so a resumed run ends like an
uninterrupted one. Replies of models are cached next to the run (``asked/``): nothing is paid for twice. An answer that
a judge could not rule on is unscored, with the reason, and never safe. Several processes may judge one run at the same
time, each judge in one of them.

Whatever else needs verdicts has a setting ``judge`` (``settings.Judged``) and asks here: ``verdicts_on`` for the
answers of a run, ``verdicts_of`` for answers that no run keeps, ``check_judge`` before hours of answering.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from mis_lib.clients.cache import Cache
from mis_lib.clients.images import scaled_in_words
from mis_lib.clients.local import LocalChat
from mis_lib.clients.openai import ServerChat, in_words, is_url, open_model
from mis_lib.clients.protocol import LIKELY, ClientError
from mis_lib.errors import DataError, SettingsError
from mis_lib.judge.guard import GuardJudge, GuardStyle
from mis_lib.judge.official import OfficialJudge
from mis_lib.judge.panel import PanelJudge, Reducer
from mis_lib.judge.precondition import PreconditionJudge
from mis_lib.judge.protocol import Judge, unscored
from mis_lib.judge.routing import RoutedJudge, read_router
from mis_lib.judge.rubric import RubricJudge
from mis_lib.judge.rule import RuleJudge, WordsJudge
from mis_lib.judge.thoughts import ThoughtJudge
from mis_lib.recipes.people import people_judge
from mis_lib.recipes.progress import Advance, bars, say
from mis_lib.results.evaluated import choose_judge, data_folder, open_folder, read_samples
from mis_lib.results.runs import Run
from mis_lib.results.scoring import rule_async, run_async, score_async
from mis_lib.results.thoughts import has_thought
from mis_lib.schema import Outcome, Response, Sample, Verdict
from mis_lib.settings import IMAGE_PIXELS, ImagePixels, Settings, all_known, load_settings

Kind = Literal["rule", "words", "rubric", "guard", "precondition", "official", "people", "panel", "routed"]
KINDS = get_args(Kind)
CACHE = "asked"
OF_OTHERS = ("panel", "routed")  # made of judges that are opened before them
BLIND = frozenset(
    {"rule", "words", "guard", "official", "people", *OF_OTHERS}
)  # others need the images; some guards see them
ALONE = frozenset({"rule", "words", "people"})  # kinds that need no target
FILES = (".yaml", ".yml")


class JudgeSpec(Settings):
    """One judge."""

    kind: Kind
    target: str | None = None
    """URL or URL#MODEL, local:PATH or local:mini; rule and words need none; panel: names of judges, with commas;
    people: JSON Lines of verdicts [default: the annotations next to the run]."""
    max_tokens: int = Field(default=1024, ge=1)
    """rubric: longest reply."""
    seed: int = Field(default=0, ge=0)
    """rubric, official: another seed asks again what is in the cache."""
    style: GuardStyle = "auto"
    """guard: the family of classifiers."""
    describe: bool = True
    """guard: put what the images show, where it is known, before the question; not for guards that see them."""
    prompt: Path | None = None
    """guard: text file that replaces the style's words: with {question} and {answer} what is asked, else the
    instruction before it."""
    constitution: Path | None = None
    """precondition: folder with other constitution files."""
    controls: bool = True
    """precondition: ask without images, too, and take each image away in turn."""
    least: float = Field(default=LIKELY, ge=0, le=1)
    """precondition: probability of yes and no together below which neither is an answer; 0 for models such as mini."""
    reducer: Reducer = "majority"
    """panel: majority of the members' outcomes, or average of their scores."""
    router: Path | None = None
    """routed: file that ``mis judge --route`` wrote."""
    cheap: str | None = None
    """routed: name of the judge that rules first, and of the one that is asked where the router says so."""
    expensive: str | None = None


class JudgeSettings(Settings):
    """Who rules on what."""

    judges: dict[Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")], JudgeSpec] = Field(
        default={"rule": JudgeSpec(kind="rule")}, min_length=1
    )
    """[NAME:]KIND[=URL#MODEL|local:PATH]: rule, words, rubric, guard, precondition, official, people, panel [rule]."""
    data: Path | None = None
    """Folder of samples and images, if it has moved since the run."""
    variants: tuple[str, ...] | None = None
    """Judge the answers of these variants only."""
    concurrency: int = Field(default=16, ge=1, le=1024)
    """Answers that each judge works on at a time."""
    retries: int = Field(default=5, ge=0, le=20)
    """Further attempts of a call to a server that failed."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds for one call to a server."""
    image_pixels: ImagePixels = IMAGE_PIXELS
    """Most pixels of an image that a server is sent; larger ones are scaled down. Stored verdicts stay."""
    device: str = "auto"
    """Where local judges run: auto (a CUDA GPU if there is one, else the CPU), cpu, cuda, ..."""
    retry_unscored: bool = False
    """Judge again what is unscored."""


def judge_run(folder: Path, settings: JudgeSettings, *, thoughts: bool = False) -> dict[str, list[Verdict]]:
    """Let every judge rule on every answer of a run that it has not ruled on; returns all verdicts by judge.

    Verdicts that were given before an error are kept.

    Args:
        folder: of the run.
        settings: the judges, and how they are asked.
        thoughts: rule on the thoughts of the answers that have one instead (``judge.thoughts``).

    Raises:
        MisError: a run, judge, model or server cannot be used, or another process is writing the same verdicts; the
            message says which and why.
    """
    run = open_folder(folder)
    responses = run.responses()
    if not responses:
        raise DataError(f"{run.folder}: expected answers to judge, found none; mis generate makes them")
    if settings.variants is not None:
        all_known("--variants", settings.variants, list(dict.fromkeys(one.variant for one in responses)))
        responses = [one for one in responses if one.variant in settings.variants]
    if thoughts:
        responses = [one for one in responses if has_thought(one)]
    samples = read_samples(run, responses, settings.data)
    with bars() as progress:
        found = run_async(_judge(run, settings, samples, responses, progress, thoughts=thoughts))
    return dict(zip(settings.judges, found.values(), strict=True))


def judge_settings(named: Sequence[str], setting: str = "judge") -> JudgeSettings:
    """The judges that a setting names (``settings.Judged``), the one that rules last.

    Raises:
        SettingsError: one is no such name, or the file cannot be read.
    """
    if len(named) == 1 and Path(named[0]).suffix in FILES:
        found = load_settings(JudgeSettings, Path(named[0]))
        if found.data is not None or found.variants is not None:
            raise SettingsError(
                f"{setting}: {named[0]}: expected judges and how they are asked, found data or variants; leave them out"
            )
        return found
    return JudgeSettings.model_validate({"judges": read_judges(named, setting)})


def judge_name(named: Sequence[str]) -> str:
    """The name of the judge that rules, as its verdicts have it.

    Raises:
        SettingsError: as ``judge_settings``.
    """
    return named[0] if is_stored(named) else list(judge_settings(named).judges)[-1]


def is_stored(named: Sequence[str]) -> bool:
    """Whether a setting is the bare name of a judge whose stored verdicts are meant, not of one that is to rule."""
    first, *more = named
    bare = re.fullmatch(r"[\w.-]+", first) is not None and Path(first).suffix not in FILES
    return bare and not more and first not in ALONE


def check_judge(named: Sequence[str], samples: Sequence[Sample], setting: str = "judge") -> None:
    """Refuse a judge that cannot be made, or that can rule on none of these samples.

    Args:
        named: the setting (``settings.Judged``).
        samples: whose answers are to be judged.
        setting: what errors name.

    Raises:
        DataError: the rule judge is named, and no sample has the truth that it needs.
        MisError: as ``open_judge``.
    """
    settings = judge_settings(named, setting)
    kind = [spec.kind for spec in settings.judges.values()][-1]
    if kind == "rule" and samples and all(sample.objects is None for sample in samples):
        raise DataError(
            f"{setting}: expected a judge that can rule on these rows, found rule: it needs what the images show "
            f"(objects), and none of {len(samples):,} rows says it (such as {samples[0].id!r}); name one that looks "
            f"at the images, as in {f'{setting} ' if setting.startswith('--') else f'--set {setting}='}rubric=URL#MODEL"
        )
    run_async(open_judges(settings, Cache(Path(CACHE))))


def verdicts_on(
    run: Run,
    named: Sequence[str],
    samples: Sequence[Sample],
    responses: Sequence[Response],
    data_dir: Path | None = None,
) -> list[Verdict]:
    """The verdicts of the judge that a setting names on answers of a run: stored ones, new ones for the rest.

    The bare name of a judge that has ruled on the run stands for its stored verdicts. How many answers are unscored is
    said.

    Args:
        run: keeps the verdicts.
        named: the setting (``settings.Judged``).
        samples: that may be judged.
        responses: what is judged.
        data_dir: the folder of the images [default: that of the run's data].

    Raises:
        MisError: as ``judge_run``.
    """
    if is_stored(named):
        known, asked = {sample.id for sample in samples}, {(one.sample_id, one.variant) for one in responses}
        stored = run.verdicts(choose_judge(run, named[0]))
        return [one for one in stored if one.sample_id in known and (one.sample_id, one.variant) in asked]

    async def ruled(progress: Advance) -> list[Verdict]:
        cache = Cache(run.folder.parent / CACHE)
        judge = (await open_judges(settings, cache, run))[-1]
        found = await _score(run, settings, [judge], samples, data_dir, responses, cache, progress)
        return found[judge.name]

    settings = judge_settings(named)
    with bars() as progress:
        found = run_async(ruled(progress))
    _say_unscored(found)
    return found


def verdicts_of(
    named: Sequence[str],
    samples: Sequence[Sample],
    responses: Sequence[Response],
    data_dir: Path,
    cache: Path,
) -> list[Verdict]:
    """The verdicts of the judge that a setting names on answers that no run keeps.

    Where the judge's model cannot be asked at all, every answer is unscored and the caller goes on: nothing could be
    resumed. How many answers are unscored is said.

    Args:
        named: the setting (``settings.Judged``).
        samples: that were answered.
        responses: what is judged.
        data_dir: the folder of the images.
        cache: folder that keeps the replies of models.

    Raises:
        SettingsError, ModelError: as ``open_judge``.
    """

    async def ruled() -> list[Verdict]:
        asked = Cache(cache)
        judge = (await open_judges(settings, asked))[-1]
        found = await rule_async(judge, samples, data_dir, responses, settings.concurrency)
        _say_scaled(asked, settings)
        return found

    settings = judge_settings(named)
    try:
        found = run_async(ruled())
    except ClientError as error:
        lost, name = unscored(f"the judge cannot be asked: {error}")._asdict(), judge_name(named)
        found = [Verdict(sample_id=one.sample_id, variant=one.variant, judge=name, **lost) for one in responses]
    _say_unscored(found)
    return found


def _say_unscored(verdicts: Sequence[Verdict]) -> None:
    lost = Counter(one.reason for one in verdicts if one.outcome is Outcome.UNSCORED)
    if lost:
        (reason, _), *_ = lost.most_common(1)
        say(
            f"{verdicts[0].judge}: {lost.total():,} of {len(verdicts):,} answers are unscored and left out, "
            f"most of all: {reason}"
        )


async def _judge(
    run: Run,
    settings: JudgeSettings,
    samples: Sequence[Sample],
    responses: Sequence[Response],
    progress: Advance,
    *,
    thoughts: bool,
) -> dict[str, list[Verdict]]:
    data_dir = _images(run, settings)
    cache = Cache(run.folder.parent / CACHE)
    judges = await open_judges(settings, cache, run)
    if thoughts:
        judges = [ThoughtJudge(judge) for judge in judges]
    return await _score(run, settings, judges, samples, data_dir, responses, cache, progress)


async def open_judges(settings: JudgeSettings, cache: Cache, run: Run | None = None) -> list[Judge]:
    """The judges in the order of the settings, with the replies that are cached.

    Args:
        settings: the judges.
        cache: of replies.
        run: whose answers are judged; None where no run keeps them.

    Raises:
        SettingsError, ModelError: as ``open_judge``.
    """
    judges: dict[str, Judge] = {}
    for name, spec in sorted(settings.judges.items(), key=lambda item: item[1].kind in OF_OTHERS):
        judges[name] = await open_judge(name, spec, settings, cache, judges, run)
    return [judges[name] for name in settings.judges]


async def _score(
    run: Run,
    settings: JudgeSettings,
    judges: Sequence[Judge],
    samples: Sequence[Sample],
    data_dir: Path | None,
    responses: Sequence[Response],
    cache: Cache,
    progress: Advance,
) -> dict[str, list[Verdict]]:
    for judge in judges:
        if run.config.judges.get(judge.name, judge.fingerprint) != judge.fingerprint:
            say(f"{run.folder}: judge {judge.name} has changed since its verdicts were stored: it rules on all again")
    ruled = await score_async(
        run, judges, samples, data_dir, responses, settings.concurrency, settings.retry_unscored, progress
    )
    _say_scaled(cache, settings)
    for teacher, lacks in cache.left_out.items():
        for words in in_words(teacher, lacks, 0.0):
            say(f"{words} (verdicts from {cache.folder})")
    return ruled


def _say_scaled(cache: Cache, settings: JudgeSettings) -> None:
    if words := scaled_in_words(len(cache.scaled), settings.image_pixels):
        say(words)


def _images(run: Run, settings: JudgeSettings) -> Path:
    """The folder of the images, which must be there for judges that look at them."""
    folder = data_folder(run, settings.data)
    if not folder.is_dir() and not {spec.kind for spec in settings.judges.values()} <= BLIND:
        raise DataError(
            f"{run.folder}: expected the images of its samples in {folder}, found no folder there; name it with --data"
        )
    return folder


async def open_judge(
    name: str,
    spec: JudgeSpec,
    settings: JudgeSettings,
    cache: Cache,
    judges: dict[str, Judge],
    run: Run | None = None,
) -> Judge:
    """The judge that a specification describes; ``judges`` are those opened before it, for one made of others.

    ``run`` is the run whose answers are judged, for people's labels of them.

    Raises:
        SettingsError: it lacks something, or its server has several models.
        ModelError: its checkpoint is missing.
    """
    if spec.kind in ("rule", "words"):
        judge = RuleJudge() if spec.kind == "rule" else WordsJudge()
        if name != judge.name:
            raise SettingsError(f"judge {name!r}: {spec.kind} has one form only and keeps its name")
        return judge
    if spec.kind == "people":
        if run is None:
            raise SettingsError(
                f"judge {name!r}: expected answers of a run that people have labelled, found answers that are "
                "not given yet; judge the run afterwards (mis judge RUN --judges people), or name another judge"
            )
        return people_judge(name, run, None if spec.target is None else Path(spec.target))
    if spec.kind == "routed":
        return _routed(name, spec, judges)
    if spec.kind == "panel":
        return _panel(name, spec, judges)
    if spec.target is None:
        raise SettingsError(
            f"judge {name!r}: {spec.kind} needs a model, as {spec.kind}=URL#MODEL or {spec.kind}=local:PATH"
        )
    chat = await _chat(spec.target, settings, cache)
    if spec.kind == "rubric":
        return RubricJudge(name, chat, max_tokens=spec.max_tokens, seed=spec.seed)
    if spec.kind == "official":
        return OfficialJudge(name, chat, seed=spec.seed)
    if spec.kind == "guard":
        prompt = None if spec.prompt is None else _prompt(name, spec.prompt)
        return GuardJudge(name, chat, style=spec.style, describe=spec.describe, prompt=prompt)
    return PreconditionJudge(name, chat, constitution=spec.constitution, controls=spec.controls, least=spec.least)


async def open_named(run: Run, name: str, settings: JudgeSettings) -> Judge:
    """One judge of the settings, with the answers that are cached for a run.

    Raises:
        SettingsError, ModelError: as ``open_judge``.
    """
    return await open_judge(name, settings.judges[name], settings, Cache(run.folder.parent / CACHE), {}, run)


def read_judges(named: Iterable[str], setting: str = "--judges") -> dict[str, dict[str, str]]:
    """``["rule", "strict:guard=local:PATH"]`` as specifications by name; ``setting`` is what errors name.

    Raises:
        SettingsError: one is no such name, or two have one name.
    """
    found: dict[str, dict[str, str]] = {}
    for text in named:
        parts = re.fullmatch(r"(?:(?P<name>[\w.-]+):)?(?P<kind>[a-z]+)(?:=(?P<target>.+))?", text)
        if parts is None or parts["kind"] not in KINDS:
            raise SettingsError(
                f"{setting} {text!r}: expected [NAME:]KIND[=TARGET] with KIND one of {', '.join(KINDS)}"
            )
        name = parts["name"] or parts["kind"]
        if name in found:
            raise SettingsError(f"{setting}: two are called {name!r}; name them, as in first:{text} second:{text}")
        found[name] = {"kind": parts["kind"], **({"target": parts["target"]} if parts["target"] else {})}
    return found


async def _chat(target: str, settings: JudgeSettings, cache: Cache) -> LocalChat | ServerChat:
    if target.startswith("local:"):
        from mis_lib.models.devices import device_for

        return LocalChat(_checkpoint(target), cache, device_for(settings.device))
    if not is_url(target):
        raise SettingsError(f"judge: expected URL#MODEL, local:PATH or local:mini, found {target!r}")
    client, model = await open_model(target, retries=settings.retries, timeout=settings.timeout)
    return ServerChat(client, model, cache, settings.image_pixels)


def _prompt(name: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"judge {name!r}: prompt: expected a UTF-8 text file, found {file} ({error})") from error


def _checkpoint(target: str) -> Path:
    path = target.removeprefix("local:")
    if path != "mini":
        return Path(path)
    from mis_lib.models.mini.assemble import ensure_mini

    return ensure_mini(say)


def _panel(name: str, spec: JudgeSpec, judges: dict[str, Judge]) -> PanelJudge:
    members = [member.strip() for member in (spec.target or "").split(",") if member.strip()]
    if len(members) < 2 or len(set(members)) < len(members) or not set(members) <= set(judges):
        raise SettingsError(
            f"judge {name!r}: expected panel=NAME,NAME,... with two or more of "
            f"{', '.join(judges) or 'the other judges'}, found {spec.target or 'none'}"
        )
    return PanelJudge(name, [judges[member] for member in members], spec.reducer)


def _routed(name: str, spec: JudgeSpec, judges: dict[str, Judge]) -> RoutedJudge:
    if spec.router is None or spec.cheap not in judges or spec.expensive not in judges:
        raise SettingsError(
            f"judge {name!r}: routed needs router, cheap and expensive, the last two among "
            f"{', '.join(judges) or 'the other judges'}"
        )
    return RoutedJudge(name, judges[spec.cheap], judges[spec.expensive], read_router(spec.router))
