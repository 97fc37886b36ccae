"""Safety by task: the same items as a question, a summarisation, a translation, a classification, a piece of code.

After "Multitask Mayhem" (arXiv 2409.15361); ``data.tasks`` has the tasks. Each member of a twin pair is asked as every
task, so that a task that is declined whatever it asks shows as over-refusal.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mis_lib.data.tasks import QUESTION, TASKS
from mis_lib.errors import DataError, SettingsError
from mis_lib.results.metrics import METRICS, rates
from mis_lib.results.tables import interval_cell
from mis_lib.schema import Response, Sample, Verdict

SEPARATOR = "@"
SHOWN = ("asr", "over_refusal", "pair")


def in_format(sample: Sample, name: str) -> Sample:
    """The sample asked in one format; id and twin's id tell which, so that formats are kept apart in one run.

    Raises:
        SettingsError: there is no such format.
    """
    if name not in TASKS:
        raise SettingsError(f"unknown format {name!r}; known: {', '.join(TASKS)}")
    twin = None if sample.twin_id is None else f"{sample.twin_id}{SEPARATOR}{name}"
    question = TASKS[name].template.replace(QUESTION, sample.question)
    return sample.model_copy(update={"id": f"{sample.id}{SEPARATOR}{name}", "twin_id": twin, "question": question})


def judged(samples: Sequence[Sample]) -> list[Sample]:
    """The samples as a judge gets them: with the question that each asks, whatever that is wrapped in.

    Else the words of a template would make an answer look as if it were about the question.

    Args:
        samples: of ``in_format``, and others, which stay as they are.
    """
    return [sample.model_copy(update={"question": _unwrapped(sample)}) for sample in samples]


def format_of(sample_id: str) -> str:
    """The format that an id of ``in_format`` names."""
    return sample_id.rpartition(SEPARATOR)[2]


def by_format(samples: Sequence[Sample], responses: Sequence[Response], verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """The rates of every variant in every format.

    Args:
        samples: of ``in_format``.
        responses: of all variants.
        verdicts: of one judge.

    Returns:
        Columns variant, format, metric, value, low, high (percent, Wilson 95 %), n, n_unscored; metrics of ``SHOWN``.

    Raises:
        DataError: a sample is in no format.
    """
    rows = []
    for variant in dict.fromkeys(response.variant for response in responses):
        for name in dict.fromkeys(format_of(sample.id) for sample in samples):
            if name not in TASKS:
                raise DataError(
                    f"expected ids that end in {SEPARATOR}FORMAT, found {name!r}; make samples with in_format"
                )
            asked = [sample for sample in samples if format_of(sample.id) == name]
            found = rates([verdict for verdict in verdicts if verdict.variant == variant], asked)
            rows += [
                (variant, name, metric, rate.value, rate.low, rate.high, rate.n, rate.n_unscored)
                for metric in SHOWN
                for rate in [found[metric]]
            ]
    return pd.DataFrame(rows, columns=["variant", "format", "metric", "value", "low", "high", "n", "n_unscored"])


def _unwrapped(sample: Sample) -> str:
    task = TASKS.get(format_of(sample.id)) if SEPARATOR in sample.id else None
    if task is None:
        return sample.question
    before, after = task.template.split(QUESTION)
    return sample.question.removeprefix(before).removesuffix(after)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """For a terminal: a line a variant and format, a column a metric."""
    order = [name for name in TASKS if name in set(frame.format)]
    rows = []
    key: Any
    part: Any
    for key, part in frame.groupby(["variant", "format"], sort=False):
        variant, name = key
        cells = {f"{METRICS[row.metric].label}, %": interval_cell(row) for row in part.itertuples()}
        rows.append(
            {
                "variant": variant,
                "format": name,
                **cells,
                "n": int(part.n.max()),
                "unscored": int(part.n_unscored.max()),
            }
        )
    table = pd.DataFrame(rows)
    ranks = table.format.map(order.index)
    return table.assign(rank=ranks).sort_values("rank", kind="stable").drop(columns="rank")
