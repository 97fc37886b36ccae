"""Drawn objects as image maker: pictures from the emoji packages, for pipelines that run anywhere and for free.

It shows only what ``concepts.csv`` lists, and says so: a prompt that names no such thing is refused, never replaced by something near. A prompt
may be more than a name; the longest concept that it names is drawn. The seed decides style, place, tilt and tint, so another seed is another look.
"""

import functools

from mis_lib.clients.images import encode
from mis_lib.clients.protocol import CannotAnswer, ImageAsk, ImageReply
from mis_lib.construct.drawings import TRAINED_STYLES, concepts, scene
from mis_lib.text.naming import is_named, synonyms

SIDE = 224


class DrawnImages:
    """Emoji drawings on plain paper."""

    name = "drawn"

    def __init__(self, side: int = SIDE) -> None:
        self._side = side

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Everything that can be drawn."""
        return tuple(concepts())

    async def make(self, ask: ImageAsk) -> ImageReply:
        """Draw one picture.

        Raises:
            CannotAnswer: the prompt names nothing that can be drawn (code ``no drawing``).
        """
        name = find_concept(ask.prompt)
        if name is None:
            raise CannotAnswer(
                "no drawing", f"there is no drawing of {ask.prompt!r}; what there is stands in concepts.csv"
            )
        style = TRAINED_STYLES[ask.seed % len(TRAINED_STYLES)]
        return ImageReply(encode(scene(name, style, seed=ask.seed, size=self._side)))


@functools.cache
def find_concept(prompt: str) -> str | None:
    """The concept that a prompt is about: its name, a synonym, or else the longest concept that it names."""
    text = prompt.strip().lower()
    exact = {name.lower(): name for name in concepts()}
    listed = {word.lower(): name for name, words in synonyms().items() for word in words}
    if text in exact or text in listed:
        return exact.get(text) or listed[text]
    return max((name for name in concepts() if is_named(prompt, name)), key=len, default=None)
