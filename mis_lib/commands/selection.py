"""``--only``: some items instead of a whole split, by their ids or as the failures of a stored run, each of these with its twin.

The twin goes along because what a model learned from its failures shows on both: less help with harm, and perhaps less help at all. A run over a selection
is a run of its own and says so in every table, since a rate among failures is no rate of the data.
"""

from collections.abc import Sequence
from pathlib import Path

from mis_lib.errors import DataError, SettingsError
from mis_lib.results.evaluated import judges_of, open_folder, run_name
from mis_lib.results.metrics import RIGHT
from mis_lib.results.runs import Run
from mis_lib.schema import Outcome, Sample

NAMED = 3  # so many ids are listed


def select(samples: Sequence[Sample], only: Sequence[str]) -> list[Sample]:
    """The samples that ``only`` names, in their order.

    Args:
        samples: all that there are.
        only: ids; or RUN, RUN:VARIANT for what was answered wrong there, each with its twin.

    Raises:
        DataError: an id is not there, a sample of the run is not, or no judge has read the run.
        SettingsError: the run has no such variant.
    """
    known = {sample.id: sample for sample in samples}
    wanted: set[str] = set()
    for value in only:
        if (side := _side(value)) is None:
            if value not in known:
                raise DataError(
                    f"--only: expected the id of an item, or a run's folder, found {value!r}; {_where(samples)}"
                )
            wanted.add(value)
        else:
            failed = _failures(*side)
            if lost := [name for name in failed if name not in known]:
                raise DataError(
                    f"--only {value}: expected its items, {len(lost):,} are not there (such as {lost[0]!r}); {_where(samples)}, "
                    f"and the run asked {side[0].config.data}"
                )
            wanted |= {name for one in failed for name in (one, known[one].twin_id or one)}
    return [sample for sample in samples if sample.id in wanted]


def told(only: Sequence[str]) -> str:
    """The selection in words, the same however the run's folder was written."""
    sides = [side for value in only if (side := _side(value))]
    ids = sorted(value for value in only if _side(value) is None)
    failures = [f"failures of {run_name(run)}{f':{variant}' if variant else ''}" for run, variant in sides]
    named = ids if len(ids) <= NAMED else [*ids[:NAMED], f"{len(ids) - NAMED} more"]
    return f"only {', '.join([*failures, *named])}" if only else ""


def _side(value: str) -> tuple[Run, str] | None:
    """The run and variant that a value names; None if it is an id."""
    folder, _, variant = (value, "", "") if Path(value).is_dir() else value.rpartition(":")
    return (open_folder(Path(folder)), variant) if folder and Path(folder).is_dir() else None


def _failures(run: Run, variant: str) -> list[str]:
    """Ids of the samples that the variant, or any, answered wrong by any judge that could tell, as Annotate counts failures."""
    verdicts = [verdict for judge in judges_of(run) for verdict in run.verdicts(judge)]
    if not verdicts:
        raise DataError(
            f"{run.folder}: expected verdicts, found none; let judges read it first: mis judge {run.folder}"
        )
    variants = list(dict.fromkeys(verdict.variant for verdict in verdicts))
    if variant and variant not in variants:
        raise SettingsError(f"--only {run.folder}:{variant}: unknown variant; known: {', '.join(variants)}")
    found = [
        verdict.sample_id
        for verdict in verdicts
        if variant in ("", verdict.variant) and verdict.outcome not in (*RIGHT, Outcome.UNSCORED)
    ]
    if not found:
        raise DataError(
            f"{run.folder}: expected failures of {variant or 'any variant'}, found none: nothing to ask again"
        )
    return list(dict.fromkeys(found))


def _where(samples: Sequence[Sample]) -> str:
    splits = ", ".join(dict.fromkeys(sample.split for sample in samples))
    return f"looked at {len(samples):,} items ({splits}); name others with --data and --splits"
