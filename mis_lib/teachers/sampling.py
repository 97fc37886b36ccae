"""What the draws of a server's answers lacked: as it is stored beside them, and in words.

A server that takes no seed, or takes it and does not go by it, answers otherwise whenever it draws; nobody sees that from one answer.
"""

from collections.abc import Collection, Mapping

TURNED_DOWN, NOT_KEPT = "turned down", "not kept to"
SAMPLING = ("temperature", "seed")


def turned_down(left_out: Collection[str]) -> dict[str, str]:
    """Of the parameters that a server has turned down, those that an answer is drawn with, as they are stored."""
    return {name: TURNED_DOWN for name in SAMPLING if name in left_out}


def in_words(who: str, lacks: Mapping[str, str], temperature: float | None = None) -> list[str]:
    """A sentence for each parameter that matters.

    Args:
        who: the server or its model.
        lacks: what ``turned_down`` stores; of a seed also ``NOT_KEPT``.
        temperature: that was asked for; a seed matters where something is drawn. ``None`` where several were.
    """
    said = []
    if "temperature" in lacks:
        wanted = "" if temperature is None else f", not with {temperature:g}"
        said.append(f"{who} takes no temperature: its answers are drawn as it likes{wanted}")
    if "seed" in lacks and (temperature != 0 or "temperature" in lacks):
        how = (
            "takes no seed: what it draws cannot be drawn again"
            if lacks["seed"] == TURNED_DOWN
            else "does not keep to the seed: the same request with the same seed was answered otherwise, so that what it draws cannot be drawn again"
        )
        said.append(f"{who} {how}")
    return said
