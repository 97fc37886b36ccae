"""``mis compare``: several variants answer one question about the same images, streamed side by side.

What was asked for is checked before the model is loaded, so that a wrong path or name costs no wait.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mis_lib.errors import SettingsError
from mis_lib.files import load_image
from mis_lib.generate.columns import Column, MultiEngine, StreamEngine
from mis_lib.generate.served import Served, check_names
from mis_lib.models.adapters import choose_variants
from mis_lib.recipes.checkpoints import local_checkpoint
from mis_lib.settings import GenerationSettings

if TYPE_CHECKING:
    from mis_lib.generate.stream import VariantEngine

DEFAULT = ("mini", "mirage")
Columns = tuple[Column, ...]
NONE_SERVED: Mapping[str, Served] = {}


def compare(
    paths: Sequence[Path],
    question: str,
    variants: Sequence[str] | None,
    settings: GenerationSettings,
    *,
    checkpoint: Path | None = None,
    adapters: Mapping[str, Path] | None = None,
    device: str = "cpu",
    served: Mapping[str, Served] = NONE_SERVED,
) -> Iterator[Columns]:
    """Load images and variants, and answer; yields the answers of all variants as they grow, the finished ones last.

    Args:
        paths: the images, in order.
        question: what is asked about them.
        variants: which answer, local or served; by default ``DEFAULT`` of the shipped ones, or all that are named.
        settings: length and sampling.
        checkpoint: folder or hub id; the embedded model if not given.
        adapters: PEFT folder of each further variant; the shipped ones if neither this nor a checkpoint is given.
        device: where the model computes.
        served: where served variants are asked.

    Raises:
        MisError: an image, the question, a variant or the model cannot be used; the message says which and why.
    """
    images = [load_image(path) for path in paths]
    local = choose_variants(checkpoint, adapters)
    if checkpoint or adapters:
        check_names(served, tuple(local))
    else:  # a served variant replaces a shipped one of the same name
        local = {name: folder for name, folder in local.items() if name not in served}
    known = [*served, *local]
    usual = known if checkpoint or adapters else list(served) or [name for name in known if name in DEFAULT]
    chosen = list(variants or usual)
    for name in chosen:
        if name not in known:
            raise SettingsError(f"--variants: unknown variant {name!r}; known here: {', '.join(known)}")
    engines: list[StreamEngine] = []
    if served:
        from mis_lib.generate.served import ServedEngine  # the openai client takes a second to import

        engines.append(ServedEngine(served))
    if here := {name: local[name] for name in chosen if name in local}:
        engines.append(load_engine(checkpoint, here, device))
    return iter(MultiEngine(*engines).stream(images, question, chosen, settings))


def load_engine(
    checkpoint: Path | None, adapters: Mapping[str, Path | None], device: str, dtype: str | None = None
) -> "VariantEngine":
    """The checkpoint, or the embedded model (built if missing), with these adapters.

    Args:
        checkpoint: folder or hub id [default: the embedded model].
        adapters: PEFT folder of each variant; ``None`` for the checkpoint itself.
        device: where the model computes.
        dtype: of the weights [default: what suits the machine].

    Raises:
        ModelError: the model cannot be built or loaded.
    """
    from mis_lib.generate.stream import VariantEngine  # takes seconds to import

    return VariantEngine.load(local_checkpoint(checkpoint), adapters, device=device, dtype=dtype)
