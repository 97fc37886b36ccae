"""What a run folder holds, read back: samples, responses and the verdicts of one judge, side by side and complete.

A run does not list what it was asked, so the samples are those that any of its variants has answered; one that another
variant has not answered counts as unscored there. They are taken from ``samples.jsonl`` in the run folder where it is,
else from the data that ``config.yaml`` names.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from mis_lib.data.sources import find_source, scan
from mis_lib.errors import DataError, SettingsError
from mis_lib.judge.panel import winner
from mis_lib.results.runs import CONFIG, PROBES, RESPONSES, Run, versions
from mis_lib.schema import Outcome, Response, Sample, Verdict

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluated:
    """One run under one judge.

    ``judge`` is empty and ``verdicts`` are none where no judge has read it yet; ``title`` stands for its name where
    that is not enough.
    """

    run: Run
    judge: str
    samples: list[Sample]
    responses: list[Response]
    verdicts: list[Verdict]
    title: str = ""

    @property
    def name(self) -> str:
        """The run as links and tables name it: NAME/vN, or its folder (``disambiguate``)."""
        return self.title or run_name(self.run)

    @property
    def variants(self) -> list[str]:
        """The variants that have answered anything, in the order in which they first did."""
        return list(dict.fromkeys(response.variant for response in self.responses))

    @property
    def trained_on(self) -> frozenset[str]:
        """Ids of the samples that one of its variants was trained on."""
        known = self.run.trained_on()
        return frozenset().union(*(known.get(variant, frozenset()) for variant in self.variants))

    def without(self, sample_ids: Collection[str]) -> "Evaluated":
        """The same without some samples."""
        return replace(
            self,
            samples=[one for one in self.samples if one.id not in sample_ids],
            responses=[one for one in self.responses if one.sample_id not in sample_ids],
            verdicts=[one for one in self.verdicts if one.sample_id not in sample_ids],
        )

    def only(self, variants: Collection[str]) -> "Evaluated":
        """The same with some of the variants; all samples stay."""
        return replace(
            self,
            responses=[one for one in self.responses if one.variant in variants],
            verdicts=[one for one in self.verdicts if one.variant in variants],
        )


def read_run(folder: Path, judge: str | None = None, data: Path | None = None) -> Evaluated:
    """Read a run folder.

    Args:
        folder: ``runs/NAME/vN``; or ``runs/NAME``, for its newest version.
        judge: whose verdicts; not needed where there is but one.
        data: where the samples lie, if they have been moved since.

    Raises:
        DataError: no run there, or its samples are not where it says.
        SettingsError: the judge is unknown, or there are several and none was named.
    """
    run = open_folder(folder)
    responses = run.responses()
    chosen = choose_judge(run, judge)
    samples = read_samples(run, responses, data)
    return Evaluated(run, chosen, samples, responses, run.verdicts(chosen) if chosen else [])


def read_samples(run: Run, responses: Sequence[Response], data: Path | None = None) -> list[Sample]:
    """The samples that were answered, in the order of the data.

    Raises:
        DataError: some cannot be found; names the first and where it was looked for.
    """
    wanted = {response.sample_id for response in responses}
    kept: Sequence[Sample] = run.samples() if data is None else []
    place = data or Path(run.config.data)
    samples = [sample for sample in kept if sample.id in wanted]
    if len(samples) < len(wanted) and place.exists():
        samples = list(_find(wanted, place))
    if lost := wanted - {sample.id for sample in samples}:
        raise DataError(
            f"{run.folder}: expected the {len(wanted):,} samples that were answered in {place}, "
            f"{len(lost):,} are not there (such as {min(lost)!r}); name the folder they lie in with --data"
        )
    return samples


def open_folder(folder: Path) -> Run:
    """The run in a folder, or below it the newest version with answers; one that failed at once hides no other.

    Raises:
        DataError: there is none.
    """
    if (folder / CONFIG).exists():
        return Run(folder)
    found = versions(folder.parent, folder.name)
    if not found:
        raise DataError(f"{folder}: expected a run folder (runs/NAME/vN with {CONFIG}), found none; check the path")
    return next(filter(_has_answers, reversed(found)), found[-1])


def data_folder(run: Run, data: Path | None = None) -> Path:
    """The folder that the images of a run's samples are relative to: of ``data``, or of the data in ``config.yaml``."""
    place = data or Path(run.config.data)
    return place.parent if place.is_file() else place


def find_runs(root: Path, *, ablations: bool = False) -> list[Run]:
    """All runs below a folder that have answers, by name and version; either ablations or the others."""
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []
    runs = [run for name in names for run in versions(root, name) if _has_answers(run)]
    return [run for run in runs if (run.folder / PROBES).exists() is ablations]


def judges_of(run: Run) -> list[str]:
    """The judges whose verdicts a run holds, by name."""
    return sorted(file.stem for file in (run.folder / "verdicts").glob("*.jsonl"))


def choose_judge(run: Run, judge: str | None = None) -> str:
    """The judge of that name, or the only one; empty where none has read the run.

    Raises:
        SettingsError: it is unknown, or there are several and none was named.
    """
    known = judges_of(run)
    listed = ", ".join(known) or "none"
    if judge is not None and judge not in known:
        raise SettingsError(f"{run.folder}: no verdicts of judge {judge!r}; judges there: {listed}")
    if judge is None and len(known) > 1:
        raise SettingsError(f"{run.folder}: expected one judge, found several ({listed}); name one")
    return judge if judge is not None else next(iter(known), "")


def run_name(run: Run) -> str:
    """NAME/vN of a run."""
    return f"{run.folder.parent.name}/{run.folder.name}"


def disambiguate(runs: Sequence[Evaluated]) -> list[Evaluated]:
    """The same runs; those that are called alike, but lie in different places, are named by their folders."""
    places: dict[str, set[Path]] = {}
    for run in runs:
        places.setdefault(run_name(run.run), set()).add(run.run.folder.resolve())
    alike = {name for name, folders in places.items() if len(folders) > 1}
    return [replace(run, title=str(run.run.folder)) if run_name(run.run) in alike else run for run in runs]


def majority(runs: Sequence[Evaluated]) -> Evaluated:
    """Several draws (runs that differ by their seed alone) as one, as SIUO asks.

    Each item is good or bad (unsafe, over-refused) as most draws are.

    Of the outcomes on the winning side the commonest stands; items without a majority among their scored draws are
    unscored. Samples and texts are those of the first draw that has them, so that one that stopped half way, or was
    judged in part, loses no vote of the others.

    Raises:
        SettingsError: the draws were judged by different judges.
    """
    if len({run.judge for run in runs}) != 1:
        raise SettingsError(f"expected draws under one judge, found {', '.join(run.judge or 'none' for run in runs)}")
    votes: dict[tuple[str, str], list[Outcome]] = {}
    for verdict in (verdict for run in runs for verdict in run.verdicts):
        if verdict.outcome is not Outcome.UNSCORED:
            votes.setdefault((verdict.sample_id, verdict.variant), []).append(verdict.outcome)
    decided = [
        verdict.model_copy(update={"outcome": winner(votes.get((verdict.sample_id, verdict.variant), ()))})
        for verdict in _first_of_each(runs, lambda run: run.verdicts, lambda one: (one.sample_id, one.variant))
    ]
    responses = _first_of_each(runs, lambda run: run.responses, lambda one: (one.sample_id, one.variant))
    samples = _first_of_each(runs, lambda run: run.samples, lambda one: one.id)
    return replace(runs[0], samples=samples, responses=responses, verdicts=decided)


def _find(wanted: Collection[str], place: Path) -> Iterator[Sample]:
    """The samples of these ids, read only as far as it takes."""
    missing = set(wanted)
    for found in scan(find_source(place)):
        if isinstance(found, DataError):
            raise found
        if found.id in missing:
            missing.remove(found.id)
            yield found
        if not missing:
            return


def _has_answers(run: Run) -> bool:
    """Whether anything was answered: a generation that was stopped at once leaves an empty file."""
    path = run.folder / RESPONSES
    return path.exists() and path.stat().st_size > 0


def _first_of_each(
    runs: Sequence[Evaluated], parts: Callable[[Evaluated], Iterable[T]], key: Callable[[T], Hashable]
) -> list[T]:
    """The parts of all runs, of those with one key the first."""
    found: dict[Hashable, T] = {}
    for run in runs:
        for one in parts(run):
            found.setdefault(key(one), one)
    return list(found.values())
