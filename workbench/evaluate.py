"""Evaluations as jobs of the app: who is asked what, the command that it comes to, what it costs, how far it is.

The job is ``mis report``; where no row says what its images show, the rule judge can rule on none, and it is
``mis generate``. One command asks one checkpoint or one server, so variants of several are asked in several jobs.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from mis_lib.errors import SettingsError
from mis_lib.models.adapters import Checkpoint, shipped_variants
from mis_lib.recipes.progress import FINISHED, Step
from mis_lib.recipes.samples import limited
from mis_lib.results.evaluated import find_runs, run_name
from mis_lib.results.runs import RESPONSES, Run, versions
from mis_lib.schema import Sample
from workbench.host import Host
from workbench.jobs import PROGRAM, Jobs, check_name

STEM = "evaluation"
ANSWERING = "generating"  # what recipes call the step
PHASES = {ANSWERING: "Answering", "rule": "Judging", "training": "Training", "starting": "Starting"}
LOADING = "Generating "  # how the message begins after which the model is loaded
MINI = "mini"
USUAL = (12.0, 0.45)  # seconds until the first answer, and for each: the embedded model on two cores of a server
PAIRS = 12  # of the first evaluation that is offered
FIRST_SPLIT = "hard"


class Outcome(StrEnum):
    """State of an evaluation."""

    RUNNING = "running"
    STOPPED = "stopped"  # or failed: what was answered is kept
    FINISHED = "finished"


class Cost(NamedTuple):
    """What an evaluation asks for."""

    answers: int
    seconds: float | None
    """None where nothing was measured with this model yet."""
    measured_here: bool


class Plan(NamedTuple):
    """What would be started."""

    name: str
    command: tuple[str, ...]
    asked: str
    """The checkpoint or server."""
    cost: Cost
    is_judged: bool


class Now(NamedTuple):
    """How far an evaluation is."""

    name: str
    state: Outcome
    step: Step | None
    run: str
    """NAME/vN once there is an answer."""
    answers: int
    """How many answers the run holds."""
    printed: str
    started: str


class EvaluationJobs:
    """The evaluations of one app's folder of runs."""

    def __init__(self, host: Host, *, program: Sequence[str] = PROGRAM) -> None:
        self.host, self._program = host, tuple(program)
        self._jobs = Jobs(host.runs, STEM)

    def variants(self) -> list[str]:
        """Who can be asked."""
        return list(self.host.known_variants)

    def has_runs(self) -> bool:
        """Whether there is anything to see yet."""
        return bool(find_runs(self.host.runs))

    def splits(self) -> list[str]:
        """What can be asked; empty until the examples have been read."""
        catalogue = self.host.data.value
        return list(dict.fromkeys(str(sample.split) for sample in catalogue.samples)) if catalogue else []

    def plan(self, variants: Sequence[str], splits: Sequence[str], pairs: float | None, name: str) -> Plan:
        """What an evaluation comes to.

        Args:
            variants: who is asked.
            splits: what is asked.
            pairs: of each split, at most; 0 or None for all.
            name: of the run.

        Raises:
            SettingsError: nothing is chosen, something is not there, or the variants are of several models.
        """
        name = name.strip()
        check_name(name)
        catalogue = self.host.data.value
        if catalogue is None:
            raise SettingsError(f"the examples are not there yet: {self.host.data.status.message}")
        for what, chosen, there in (("model", variants, self.variants()), ("split", splits, self.splits())):
            if not chosen:
                raise SettingsError(f"choose at least one {what}: {', '.join(there)}")
            if gone := [one for one in chosen if one not in there]:
                raise SettingsError(f"there is no {what} {gone[0]!r:.80}; there are {', '.join(there)}")
        if pairs is not None and (pairs < 0 or pairs != int(pairs)):
            raise SettingsError(f"pairs of a split: expected a whole number, or 0 for all, found {pairs:g}")
        limit = int(pairs or 0) or None
        samples = [sample for split in splits for sample in limited(_of(catalogue.samples, split), limit)]
        asked, who = self._who(variants)
        is_judged = any(sample.objects is not None for sample in samples)
        command = [
            *self._program, "report" if is_judged else "generate", "--variants", *variants,
            "--splits", *splits, *(["--limit", str(limit)] if limit else []),
            *(["--data", str(self.host.data_folder.absolute())] if self.host.data_folder else []),
            "--name", name, "--runs", str(self._jobs.runs), *who,
        ]  # fmt: skip
        return Plan(name, tuple(command), asked, self.cost(len(samples) * len(variants), asked), is_judged)

    def start(self, plan: Plan) -> None:
        """Start an evaluation, or go on with it.

        Raises:
            SettingsError: one of that name is running.
        """
        self.start_command(plan.name, plan.command, plan.asked)

    def start_command(self, name: str, command: Sequence[str], asked: str = MINI) -> None:
        """Start a command that writes the run ``name``; raises as ``start``."""
        with self._jobs.hold(name):
            if self._jobs.is_running(name):
                raise SettingsError(f"{name} is being evaluated already; wait, or stop it first")
            self._jobs.open(name, command, config=asked)

    def stop(self, name: str) -> None:
        """End an evaluation; its answers are kept, and the same again goes on from there."""
        self._jobs.stop(name)

    def newest(self) -> str:
        """The name of the evaluation that was started last; empty if there is none."""
        return next(iter(self._jobs.names()), "")

    def now(self, name: str) -> Now:
        """How far an evaluation is."""
        job, step = self._jobs.job(name), self._jobs.step(name)
        running = self._jobs.is_running(name)
        ended = Outcome.FINISHED if step is not None and step.what == FINISHED else Outcome.STOPPED
        runs = versions(self._jobs.runs, name)
        answered = [file for run in runs if (file := run.folder / RESPONSES).exists()]
        newest = max(answered, key=lambda file: file.stat().st_mtime, default=None)
        answers = newest.read_bytes().count(b"\n") if newest is not None else 0
        run = run_name(Run(newest.parent)) if newest is not None and answers else ""
        state = Outcome.RUNNING if running else ended
        return Now(name, state, step, run, answers, self._jobs.output(name), job.started if job else "")

    def _who(self, variants: Sequence[str]) -> tuple[str, list[str]]:
        """The one checkpoint or server of the variants, and the part of the command that names it."""
        served = [name for name in variants if name in self.host.served]
        if served:
            urls = {self.host.served[name].url for name in served}
            if len(urls) > 1 or len(served) < len(variants):
                raise SettingsError(self._several())
            models = json.dumps({name: self.host.served[name].model for name in served})
            return urls.pop(), ["--set", f"server={self.host.served[served[0]].url}", f"models={models}"]
        parts = self.host.checkpoints or [Checkpoint(None, shipped_variants())]
        part = next((one for one in parts if set(variants) <= one.variants.keys()), None)
        if part is None:
            raise SettingsError(self._several())
        pairs = [f"{name}={value}" for name, value in self.host.settings.items()]
        chosen = {name: part.variants[name] for name in variants}
        shipped = shipped_variants() if part.path is None else {}
        if any(name not in shipped or shipped[name] != folder for name, folder in chosen.items()):
            named = {name: None if folder is None else str(folder.absolute()) for name, folder in chosen.items()}
            pairs.insert(0, f"adapters={json.dumps(named)}")
        at = [] if part.path is None else ["--checkpoint", str(part.path)]
        return str(part.path or MINI), [*at, *(["--set", *pairs] if pairs else [])]

    def _several(self) -> str:
        parts = [", ".join(part.variants) for part in self.host.checkpoints]
        by_url: dict[str, list[str]] = {}
        for name, one in self.host.served.items():
            by_url.setdefault(one.url, []).append(name)
        groups = "; ".join([*parts, *(", ".join(names) for names in by_url.values())])
        return f"one evaluation asks one checkpoint or one server; choose variants of one: {groups}"

    def cost(self, answers: int, asked: str = MINI) -> Cost:
        """What so many answers take: as the newest evaluation of the same model took here, else as measured before."""
        for name in self._jobs.names():
            job, step = self._jobs.job(name), self._jobs.step(name)
            if job is None or job.config != asked or step is None:
                continue
            if (each := _seconds_each(step)) is not None:
                others = sum(seconds for what, (seconds, _) in step.ended.items() if what != ANSWERING)
                return Cost(answers, others + each * answers, measured_here=True)
        if asked == MINI:
            return Cost(answers, USUAL[0] + USUAL[1] * answers, measured_here=False)
        return Cost(answers, None, measured_here=False)


def phase(step: Step | None) -> str:
    """What a job is doing, as people read it."""
    what = step.what if step is not None else "starting"
    return "Loading the model" if what.startswith(LOADING) else PHASES.get(what, what)


def _seconds_each(step: Step) -> float | None:
    """Seconds an answer took; None before there are some."""
    ended: Mapping[str, tuple[float, int]] = step.ended
    seconds, answers = ended.get(ANSWERING, (0.0, 0))
    return seconds / answers if answers else None


def _of(samples: Iterable[Sample], split: str) -> list[Sample]:
    return [sample for sample in samples if sample.split == split]
