"""``mis compare``: several variants answer one question about the same images, streamed side by side.

What was asked for is checked before the model is loaded, so that a wrong path or name costs no wait.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.live import Live

from mis_lib import console
from mis_lib.configs import GenerationSettings
from mis_lib.errors import SettingsError
from mis_lib.files import load_image

if TYPE_CHECKING:
    from mis_lib.generate.variants import Column, VariantEngine

Columns = tuple["Column", ...]


def compare(
    paths: Sequence[Path],
    question: str,
    variants: Sequence[str],
    settings: GenerationSettings,
    *,
    device: str = "cpu",
    as_json: bool = False,
) -> None:
    """Load images and variants, answer, and print the answers as panels or as one JSON document.

    Raises:
        MisError: an image, the question, a variant or the model cannot be used; the message says which and why.
    """
    images = [load_image(path) for path in paths]
    stream = load_engine(variants, device=device).stream(images, question, variants, settings)
    columns = last(stream) if as_json or not console.out.is_terminal else last(shown(stream))
    if as_json:
        asked = {"question": question, "images": [str(path) for path in paths], "settings": settings.model_dump()}
        console.print_json({**asked, "answers": [console.answer_record(column) for column in columns]})
    else:
        console.out.print(console.answers(columns))


def last(stream: Iterable[Columns]) -> Columns:
    """The finished answers: what the stream yields last."""
    return deque(stream, maxlen=1)[0]


def shown(stream: Iterable[Columns]) -> Iterator[Columns]:
    """Pass the answers on and show them side by side while they grow; the terminal is left clean."""
    columns: Columns = ()
    with Live(console=console.out, transient=True, get_renderable=lambda: console.streaming(columns)):
        for columns in stream:
            yield columns


def load_engine(variants: Sequence[str], *, device: str) -> "VariantEngine":
    """The embedded model with the adapters of these variants.

    Raises:
        SettingsError: a variant is not among the shipped ones.
        ModelError: the model cannot be built or loaded.
    """
    from mis_lib.models.shipped import shipped_variants

    shipped = shipped_variants()
    for name in variants:
        if name not in shipped:
            raise SettingsError(f"--variants: unknown variant {name!r}; known here: {', '.join(shipped)}")
    from mis_lib.generate.variants import VariantEngine  # takes seconds to import
    from mis_lib.models.mini import ensure_mini

    return VariantEngine.load(ensure_mini(console.say), {name: shipped[name] for name in variants}, device=device)
