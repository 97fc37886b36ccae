"""The datasheet of a data set, counted from its samples: contents, balance, lengths, authors, limits.

    datasheet({"train": samples, "easy": others}, about) -> Markdown

Numbers are counted, never written by hand; what cannot be counted (origin, licences, limits) comes in ``About``.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from mis_lib.schema import Record, Sample

FEW = 10  # below so many harmful items a sub-category's rate says little: Wilson's interval at 0 of 10 reaches 28 %

Splits = Mapping[str, Sequence[Sample]]


class About(Record):
    """What cannot be counted."""

    title: str
    purpose: str
    made: str
    """How, from what, and the command that makes it again."""
    licences: dict[str, str]
    """Part -> licence and credit."""
    limits: tuple[str, ...]


def datasheet(splits: Splits, about: About) -> str:
    """The datasheet as Markdown.

    Args:
        splits: the samples of each data file, by its name.
        about: origin, licences, limits.
    """
    parts = [
        f"# {about.title}",
        about.purpose,
        f"## How it is made\n{about.made}",
        f"## What is in it\n{_sizes(splits)}",
        f"## Harmful items by category\n{_categories(splits)}",
        f"## Balance\n{_bullets(_balance(splits))}",
        f"## Lengths, in words\n{_lengths(splits)}",
        f"## Between training and test\n{_bullets(_overlap(splits))}",
        f"## Licences\n{_bullets(f'{part}: {licence}' for part, licence in about.licences.items())}",
        f"## Limits\n{_bullets([*about.limits, *_counted_limits(splits)])}",
    ]
    return "\n\n".join(parts) + "\n"


def _sizes(splits: Splits) -> str:
    rows = []
    for name, samples in splits.items():
        images = Counter(len(sample.images) for sample in samples)
        rows.append([
            name,
            len(samples),
            sum(sample.harmful for sample in samples),
            sum(not sample.harmful for sample in samples),
            sum(sample.twin_id is not None for sample in samples) // 2,
            len({sample.question for sample in samples}),
            len({image for sample in samples for image in sample.images}),
            ", ".join(f"{count} x {number}" for number, count in sorted(images.items())),
        ])  # fmt: skip
    return _table(("file", "items", "harmful", "benign", "twin pairs", "questions", "pictures", "items x images"), rows)


def _categories(splits: Splits) -> str:
    counts = {
        name: Counter(
            (sample.category, sample.sub_category) for sample in samples if sample.harmful and sample.category
        )
        for name, samples in splits.items()
    }
    named = [name for name, counted in counts.items() if counted]
    pairs = sorted({pair for counted in counts.values() for pair in counted}, key=str)
    rows = [
        [category, sub_category or "-", *(counts[name][category, sub_category] for name in named)]
        for category, sub_category in pairs
    ]
    return _table(("category", "sub-category", *named), rows)


def _balance(splits: Splits) -> Iterable[str]:
    """Where harmful and benign items differ in what a shortcut could use."""
    for name, samples in splits.items():
        paired = [sample for sample in samples if sample.twin_id is not None]
        if not paired:
            continue
        harmful = sum(sample.harmful for sample in paired)
        shared = _in_both(paired, lambda sample: [sample.question])
        objects = _in_both(paired, lambda sample: sample.objects or [])
        yield (
            f"{name}: {harmful / len(paired):.1%} of {len(paired):,} paired items are harmful; {shared} of their "
            f"questions and {objects} "
            "of their objects occur in harmful and in benign items"
        )
        counted = Counter(sample.category for sample in samples if sample.harmful)
        largest, number = counted.most_common(1)[0]
        share = f"{number / harmful:.1%} of the harmful items (in MIS 46.5 %)"
        yield f"{name}: the largest category, {largest}, has {share}"


def _in_both(samples: Iterable[Sample], things: Callable[[Sample], Iterable[str]]) -> str:
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for sample in samples:
        seen[sample.harmful].update(things(sample))
    every = seen[True] | seen[False]
    return f"{len(seen[True] & seen[False]) / len(every):.1%} ({len(every):,})" if every else "none"


def _lengths(splits: Splits) -> str:
    rows = []
    for name, samples in splits.items():
        for kind, chosen in (("harmful", True), ("benign", False)):
            picked = [sample for sample in samples if sample.harmful is chosen]
            if picked:
                questions = _spread(sample.question for sample in picked)
                answers = _spread(sample.answer for sample in picked if sample.answer)
                rows.append([name, kind, questions, answers])
    return _table(("file", "items", "question: least / median / most", "answer: least / median / most"), rows)


def _spread(texts: Iterable[str]) -> str:
    words = [len(text.split()) for text in texts]
    return f"{min(words)} / {statistics.median(words):g} / {max(words)}" if words else "-"


def _overlap(splits: Splits) -> Iterable[str]:
    train = splits.get("train", [])
    pairs = {frozenset(sample.objects) for sample in train if sample.objects}
    questions = {sample.question for sample in train}
    pictures = {image for sample in train for image in sample.images}
    for name, samples in splits.items():
        if name == "train" or not any(sample.twin_id for sample in samples):
            continue
        again = sum(frozenset(sample.objects or []) in pairs for sample in samples)
        asked = sum(sample.question in questions for sample in samples)
        shown = sum(any(image in pictures for image in sample.images) for sample in samples)
        yield (
            f"{name}: {again} of {len(samples):,} items show an object pair of train, {asked} ask a question of train, "
            f"{shown} show a picture of train"
        )


def _counted_limits(splits: Splits) -> Iterable[str]:
    for name, samples in splits.items():
        counted = Counter(sample.sub_category for sample in samples if sample.harmful and sample.sub_category)
        few = sorted(sub_category for sub_category, number in counted.items() if number < FEW)
        if few:
            yield f"{name}: fewer than {FEW} harmful items in {', '.join(few)}; rates by sub-category say little there"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "- none"


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) + " |" for row in cells
    )
