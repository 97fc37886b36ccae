"""Which sample an answer of another tool belongs to.

Few tools write ids, so a row is found by what it tells: its id, else its place in the order of the data, else its question and images. Whatever it
tells must fit; an answer is never given to a sample whose question it was not asked.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mis_lib.data.answers import PLACEHOLDER, Given
from mis_lib.data.records import Row
from mis_lib.errors import DataError
from mis_lib.schema import Sample


class Matched(NamedTuple):
    """Which sample each row answers, and by what that was found: "id", "order" or "question"; "order alone" where rows tell nothing else."""

    samples: list[Sample]
    by: str


def match(given: Sequence[Given], samples: Sequence[Sample]) -> Matched:
    """Find the sample that each row answers.

    Raises:
        DataError: a row fits no sample, or several, or one that another row answers too (row and fix named).
    """
    known = {sample.id: sample for sample in samples}
    # Ids that are none of the data's are of other data, unless the questions say that they only count rows.
    placed = all(one.prompt or one.id is None for one in given)
    in_order = placed and len(given) == len(samples) and all(map(_fits, given, samples))
    if all(one.id in known and _fits(one, known[one.id]) for one in given):
        found, by = [known[one.id or ""] for one in given], "id"
    elif in_order:  # also where a column of numbers happens to hold ids
        found, by = list(samples), "order" if all(one.prompt for one in given) else "order alone"
    elif any(one.id in known for one in given):
        found, by = [_by_id(one, known) for one in given], "id"
    else:
        found, by = _by_content(given, samples), "question"
    first: dict[str, Row] = {}
    for one, sample in zip(given, found, strict=True):
        if sample.id in first:
            raise DataError(
                f"{one.row.place}: expected one answer to each sample, found a second one to {sample.id!r}, after row {first[sample.id].number}; "
                "take one out, or import several draws each as a run of its own"
            )
        first[sample.id] = one.row
    return Matched(found, by)


def _fits(one: Given, sample: Sample) -> bool:
    """Whether nothing that the row tells speaks against it."""
    return _asks(one.prompt, sample) and _shows(one.images, sample)


def _asks(prompt: str, sample: Sample) -> bool:
    """Whether the question stands in what was asked, which may hold a template around it, and its marks for images in other places."""
    pieces = (" ".join(piece.split()) for piece in PLACEHOLDER.split(sample.question))
    return not prompt or all(piece in prompt for piece in pieces)


def _shows(images: Sequence[str], sample: Sample) -> bool:
    return not images or (
        len(images) == len(sample.images) and all(_same_file(*pair) for pair in zip(images, sample.images, strict=True))
    )


def _same_file(one: str, other: str) -> bool:
    """Whether one path is the end of the other: tools look at the same folder from different places."""
    shorter, longer = sorted((f"/{one.lstrip('./')}", f"/{other.lstrip('./')}"), key=len)
    return longer.endswith(shorter)


def _by_id(one: Given, known: Mapping[str, Sample]) -> Sample:
    if one.id is None or one.id not in known:
        raise one.row.error(
            "id", "the id of a sample", one.id, "give the data that were asked with --data and --splits"
        )
    if not _fits(one, sample := known[one.id]):
        raise DataError(
            f"{one.row.place}: expected an answer to sample {one.id!r} ({sample.question!r:.80}), found one to {one.prompt!r:.80}; "
            "name the data that were asked (--data, --splits), or take out the ids if they count something else"
        )
    return sample


def _by_content(given: Sequence[Given], samples: Sequence[Sample]) -> list[Sample]:
    asked: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        asked[sample.question].append(sample)
    return [_only_one(one, asked, len(given), len(samples)) for one in given]


def _only_one(one: Given, asked: Mapping[str, list[Sample]], rows: int, samples: int) -> Sample:
    """The sample whose question and images are those of the row; of questions of which one holds the other, the longest is meant."""
    questions = [question for question, of in asked.items() if one.prompt and _asks(one.prompt, of[0])]
    longest = max(questions, key=len, default="")
    fitting = [sample for sample in asked.get(longest, []) if _shows(one.images, sample)]
    if len(fitting) != 1:
        found = f"{len(fitting):,} that it could be" if fitting else "none that it could be"
        raise DataError(
            f"{one.row.place}: expected one sample of the {samples:,} that it answers, found {found} (the file has {rows:,} rows); "
            "give each row the sample's id, or name with --data and --splits just what was asked, in its order"
        )
    return fitting[0]
