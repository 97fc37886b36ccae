"""``mis compare``: several variants answer one question about the same images, streamed side by side.

What was asked for is checked before the model is loaded, so that a wrong path or name costs no wait.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mis_lib.errors import SettingsError
from mis_lib.files import load_image
from mis_lib.generate.columns import Column, MultiEngine, StreamEngine, with_prompts
from mis_lib.generate.prompting import Prompting, prompted
from mis_lib.generate.served import Served, check_names
from mis_lib.models.adapters import Checkpoint, ImageLimits, choose_checkpoints
from mis_lib.recipes.checkpoints import local_checkpoint
from mis_lib.recipes.progress import say
from mis_lib.settings import IMAGE_PIXELS, GenerationSettings, Quantization

if TYPE_CHECKING:
    from mis_lib.generate.stream import VariantEngine

DEFAULT = ("mini", "mirage")
Columns = tuple[Column, ...]
NONE_SERVED: Mapping[str, Served] = {}
NO_PROMPTS: Mapping[str, Prompting] = {}


def compare(
    paths: Sequence[Path],
    question: str,
    variants: Sequence[str] | None,
    settings: GenerationSettings,
    *,
    checkpoint: Path | Mapping[str, Path] | None = None,
    adapters: Mapping[str, Path] | None = None,
    device: str = "auto",
    quantization: Quantization | None = None,
    served: Mapping[str, Served] = NONE_SERVED,
    image_pixels: int = IMAGE_PIXELS,
    prompts: Mapping[str, Prompting] = NO_PROMPTS,
    limits: ImageLimits | None = None,
) -> Iterator[Columns]:
    """Load images and variants, and answer; yields the answers of all variants as they grow, the finished ones last.

    Args:
        paths: the images, in order.
        question: what is asked about them.
        variants: which answer, local or served; by default ``DEFAULT`` of the shipped ones, or all that are named.
        settings: length and sampling.
        checkpoint: folder or hub id, or several by name (``choose_checkpoints``); the embedded model if not given.
        adapters: PEFT folder or weight edit of each variant; those shipped if neither this nor a checkpoint is given.
        device: where the model computes.
        quantization: how the weights of linear layers are stored.
        served: where served variants are asked.
        image_pixels: most pixels of an image that a server is sent.
        prompts: own ones by name, for variants as ``base+NAME``.
        limits: of images, which replace those of the adapters.

    Raises:
        MisError: an image, the question, a variant or the model cannot be used; the message says which and why.
    """
    images = [load_image(path) for path in paths]
    parts = choose_checkpoints(checkpoint, adapters)
    local = [name for part in parts for name in part.variants]
    if checkpoint or adapters:
        check_names(served, local)
    else:  # a served variant replaces a shipped one of the same name
        local = [name for name in local if name not in served]
    known = [*served, *local]
    usual = known if checkpoint or adapters else list(served) or [name for name in known if name in DEFAULT]
    shown = prompted(variants or usual, known, prompts)
    chosen = list(dict.fromkeys(one.base for one in shown.values()))
    for name in chosen:
        if name not in known:
            raise SettingsError(f"--variants: unknown variant {name!r}; known here: {', '.join(known)}")
    engines: list[StreamEngine] = []
    if served:
        from mis_lib.generate.served import ServedEngine  # the openai client takes a second to import

        engines.append(ServedEngine(served, image_pixels=image_pixels))
    asked = [
        Checkpoint(part.path, {name: part.variants[name] for name in chosen if name in part.variants and name in local})
        for part in parts
    ]
    asked = [part for part in asked if part.variants]
    if len(asked) == 1:
        one = asked[0]
        engines.append(load_engine(one.path, one.variants, device, quantization=quantization, limits=limits))
    elif asked:
        from mis_lib.generate.group import load_group  # takes seconds to import

        folders = [(local_checkpoint(part.path), part.variants) for part in asked]
        group = load_group(folders, device, quantization=quantization, limits=limits)
        say(group.announcement)
        engines.append(group)
    engine = with_prompts(MultiEngine(*engines), shown)
    return iter(engine.stream(images, question, list(shown), settings))


def load_engine(
    checkpoint: Path | None,
    adapters: Mapping[str, Path | None],
    device: str,
    dtype: str | None = None,
    quantization: Quantization | None = None,
    limits: ImageLimits | None = None,
) -> "VariantEngine":
    """The checkpoint, or the embedded model (built if missing), with these adapters.

    Args:
        checkpoint: folder or hub id [default: the embedded model].
        adapters: PEFT folder of each variant; ``None`` for the checkpoint itself.
        device: where the model computes.
        dtype: of the weights [default: what suits the machine].
        quantization: how the weights of linear layers are stored.
        limits: of images, which replace those of the adapters.

    Raises:
        ModelError: the model cannot be built or loaded.
    """
    from mis_lib.generate.stream import VariantEngine  # takes seconds to import

    folder = local_checkpoint(checkpoint)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "quantization": quantization, "limits": limits}
    return VariantEngine.load(folder, adapters, **options)
