"""Ask the same items in other words, with another first word, or with their images in reverse order.

The questions of a data set come from its authors' templates; a model that was trained on them may fail on other
wordings. Every item gets one question of a list that is the same for all, so that the words cannot reveal what the
images show; twins get the same one. Items whose harm is in their question (MIS-Mini says so in their provenance)
are left out: in other words their label would be wrong.

The one-word test is that of Safety Mirage (arXiv 2503.11832): fine-tuning on refusals can tie them to a word that opens
a question, so that another first word undoes them, and the word itself brings them about where nothing is harmful.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mis_lib.construct.labels import pick
from mis_lib.errors import DataError
from mis_lib.schema import Sample
from mis_lib.text.ordinals import rename_ordinals


def read_questions(path: Path) -> list[str]:
    """The questions of a text file, one a line; empty lines and lines that begin with # are skipped.

    Raises:
        DataError: the file is missing, is not UTF-8 text, holds no question or holds one twice.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text file in UTF-8 with a question a line: {error}") from error
    questions = [line for line in lines if line and not line.startswith("#")]
    if not questions:
        raise DataError(f"{path}: expected a question a line, found none")
    twice = next((line for line in questions if questions.count(line) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: expected every question once, found {twice!r} again; leave one out")
    return questions


def reworded(samples: Iterable[Sample], questions: Sequence[str]) -> tuple[list[Sample], int]:
    """The samples with one of ``questions`` in place of their own, always the same one for an item and its twin.

    Returns:
        The samples, and how many were left out because their harm is in their question.
    """
    samples = list(samples)
    kept = [sample for sample in samples if not sample.provenance.get("harm_in_question")]
    asked = [
        sample.model_copy(update={"question": pick(questions, "|".join(sorted((sample.id, sample.twin_id or ""))))})
        for sample in kept
    ]
    return asked, len(samples) - len(kept)


def with_first_word(samples: Iterable[Sample], word: str) -> tuple[list[Sample], int]:
    """The samples with another first word of their question.

    Returns:
        The samples, and how many were left out because their question begins with this word.
    """
    samples = list(samples)
    first = re.compile(r"[^\W_][\w'\u2019-]*")
    found = [(sample, first.search(sample.question)) for sample in samples]
    others = [(sample, at) for sample, at in found if at is not None and at[0].lower() != word.lower()]
    changed = [
        sample.model_copy(update={"question": f"{sample.question[: at.start()]}{word}{sample.question[at.end() :]}"})
        for sample, at in others
    ]
    return changed, len(samples) - len(changed)


def in_reverse(sample: Sample) -> Sample:
    """The sample with its images in reverse order and a question that asks the same of them.

    An answer that says which image shows what is dropped.
    """
    count = len(sample.images)
    changes: dict[str, Any] = {
        "images": sample.images[::-1],
        "objects": sample.objects and sample.objects[::-1],
        "question": rename_ordinals(sample.question, count),
    }
    if sample.answer and rename_ordinals(sample.answer, count) != sample.answer:
        changes |= {"answer": None, "segments": None}
    return sample.model_copy(update=changes)
