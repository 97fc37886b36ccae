"""``mis compare``: several variants answer one question about the same images, streamed side by side.

What was asked for is checked before the model is loaded, so that a wrong path or name costs no wait.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.live import Live

from mis_lib import console
from mis_lib.errors import SettingsError
from mis_lib.files import load_image
from mis_lib.generate.served import Served, beside
from mis_lib.generate.stream import Answerer, Column, SideBySide
from mis_lib.models.adapters import choose_variants
from mis_lib.settings import GenerationSettings

if TYPE_CHECKING:
    from mis_lib.generate.stream import VariantEngine

DEFAULT = ("mini", "mirage")
Columns = tuple[Column, ...]


def compare(
    paths: Sequence[Path],
    question: str,
    variants: Sequence[str] | None,
    settings: GenerationSettings,
    *,
    checkpoint: Path | None = None,
    adapters: Mapping[str, Path] | None = None,
    device: str = "cpu",
    as_json: bool = False,
    served: Mapping[str, Served] = console.NONE_SERVED,
) -> bool:
    """Load images and variants, answer, and print the answers as panels or as one JSON document; returns whether none failed.

    Args:
        paths: the images, in order.
        question: what is asked about them.
        variants: which answer, local or served; by default ``DEFAULT`` of the shipped ones, or all that are named.
        settings: length and sampling.
        checkpoint: folder; the embedded model if not given.
        adapters: PEFT folder of each further variant; the shipped ones if neither this nor a checkpoint is given.
        device: where the model computes.
        as_json: one JSON document instead of panels.
        served: where served variants are asked.

    Raises:
        MisError: an image, the question, a variant or the model cannot be used; the message says which and why.
    """
    images = [load_image(path) for path in paths]
    local = choose_variants(checkpoint, adapters)
    if checkpoint or adapters:
        beside(served, tuple(local))
    else:  # the shipped ones, which nobody has named
        local = {name: folder for name, folder in local.items() if name not in served}
    known = [*served, *local]
    usual = known if checkpoint or adapters else list(served) or [name for name in known if name in DEFAULT]
    chosen = list(variants or usual)
    for name in chosen:
        if name not in known:
            raise SettingsError(f"--variants: unknown variant {name!r}; known here: {', '.join(known)}")
    stream = _engine(checkpoint, {name: local[name] for name in chosen if name in local}, device, served).stream(
        images, question, chosen, settings
    )
    columns = last(stream) if as_json or not console.out.is_terminal else last(shown(stream, served))
    if as_json:
        asked = {"question": question, "images": [str(path) for path in paths], "settings": settings.model_dump()}
        records = [console.answer_record(column, served.get(column.variant)) for column in columns]
        console.print_json({**asked, "answers": records})
    else:
        console.out.print(console.answers(columns, served))
    return all(column.finish_reason != "failed" for column in columns)


def _engine(
    checkpoint: Path | None, adapters: Mapping[str, Path | None], device: str, served: Mapping[str, Served]
) -> Answerer:
    """Those served, those of this machine if any are asked for, or both."""
    engines: list[Answerer] = []
    if served:
        from mis_lib.generate.served import ServedEngine  # the openai client takes a second to import

        engines.append(ServedEngine(served))
    if adapters:
        engines.append(load_engine(checkpoint, adapters, device))
    return SideBySide(*engines)


def load_engine(
    checkpoint: Path | None, adapters: Mapping[str, Path | None], device: str, dtype: str | None = None
) -> "VariantEngine":
    """The checkpoint, or the embedded model (built if missing), with these adapters, in what number type suits the machine or in ``dtype``.

    Raises:
        ModelError: the model cannot be built or loaded.
    """
    from mis_lib.generate.stream import VariantEngine  # takes seconds to import
    from mis_lib.models.mini.assemble import ensure_mini

    return VariantEngine.load(checkpoint or ensure_mini(console.say), adapters, device=device, dtype=dtype)


def last(stream: Iterable[Columns]) -> Columns:
    """The finished answers: what the stream yields last."""
    return deque(stream, maxlen=1)[0]


def shown(stream: Iterable[Columns], served: Mapping[str, Served] = console.NONE_SERVED) -> Iterator[Columns]:
    """Pass the answers on and show them side by side while they grow; the terminal is left clean."""
    columns: Columns = ()
    with Live(console=console.out, transient=True, get_renderable=lambda: console.streaming(columns, served)):
        for columns in stream:
            yield columns
