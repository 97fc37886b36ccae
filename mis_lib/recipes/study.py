"""``mis study``: train every mixture at the same budget, let all of them answer the same items, and hold the rates against the papers.

    RUNS/NAME-ARM/vN/           training run of each mixture (``mis train``)
    RUNS/NAME-evaluation/vN/    responses and verdicts of all of them, an ordinary run
    RUNS/NAME-naming/vN/        what they recognise
    RUNS/NAME/                  study.json, study.md: rates and findings

Every part resumes by itself: a study that was stopped goes on where it was, one with a further mixture trains that alone. A mixture that
cannot be made or trained is named at the end and does not stop the others.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from mis_lib import console
from mis_lib.commands.generate_settings import GenerateSettings
from mis_lib.commands.study_plan import Arm, StudySettings, arm_of, arm_settings, asked_samples, check
from mis_lib.errors import DataError, MissingPackageError, ModelError, TrainingError
from mis_lib.files import write_atomic
from mis_lib.judge import rule
from mis_lib.recipes.generate import answer_all, mini_data
from mis_lib.results.metrics import naming_rate, rates
from mis_lib.results.naming import ensure_naming_data, naming_samples
from mis_lib.results.stats import Rate
from mis_lib.results.study import (
    BASE,
    FORMATTED,
    NAMING,
    UNSEEN,
    Agreement,
    Entry,
    Finding,
    cells,
    findings,
    in_words,
    to_markdown,
)
from mis_lib.schema import Response, Sample, Verdict
from mis_lib.train.settings import TrainSettings

NAMING_TOKENS = 48
COLOURS = {Agreement.AGREES: "green", Agreement.DISAGREES: "red", Agreement.UNDECIDED: "yellow"}


class Study(NamedTuple):
    """What came out; ``failed`` tells why a mixture has no rates."""

    entries: list[Entry]
    findings: list[Finding]
    failed: dict[str, str]
    folder: Path


Train = Callable[[TrainSettings], Path]


def study(settings: StudySettings, train: Train | None = None) -> Study:
    """Train, answer, judge and compare; writes study.json and study.md.

    Args:
        settings: mixtures, budget and tests.
        train: trains one mixture and returns its run folder [default: ``mis train``].

    Raises:
        SettingsError: an arm is unknown, or the settings of training contradict the study's.
        MisError: the base cannot be asked.
    """
    arms = {name: arm_of(name) for name in settings.arms}
    check(settings)
    adapters, failed = _train_all(settings, arms, train or _default_train())
    entries = [entry for name in (BASE, *adapters) for entry in _measure(name, settings, arms, adapters)]
    result = Study(entries, findings(entries), failed, settings.runs / settings.name)
    _write(result, settings)
    return result


def _train_all(
    settings: StudySettings, arms: Mapping[str, Arm], train: Train
) -> tuple[dict[str, Path], dict[str, str]]:
    """The adapter of each arm, and why an arm has none."""
    adapters, failed = {}, {}
    for number, name in enumerate(arms, 1):
        console.say(f"Mixture {number} of {len(arms)}: {name}")
        try:
            adapters[name] = train(arm_settings(name, settings)) / "adapter"
        except (DataError, ModelError, TrainingError, MissingPackageError) as error:
            failed[name] = str(error)
            console.say(f"Mixture {name} failed: {error}")
    return adapters, failed


def _measure(
    name: str, settings: StudySettings, arms: Mapping[str, Arm], adapters: Mapping[str, Path]
) -> Iterator[Entry]:
    """All rates of one arm or of the base, answering whatever has no answer yet."""
    folder = settings.train.data or mini_data()
    samples = asked_samples(settings, folder)
    asked = _generate_settings(name, adapters, settings)
    run, responses = answer_all(samples, folder, asked, f"{settings.name}-evaluation")
    judged = run.judge_all(rule.JUDGE, rule.fingerprint(), rule.judge, samples)
    verdicts = [verdict for verdict in judged if verdict.variant == name]
    arm = arms.get(name)
    entry = {
        "arm": name,
        "recipe": arm.recipe if arm else BASE,
        "rows": _rows(adapters[name].parent) if arm else 0,
    }
    for group, members in _groups(samples, settings).items():
        for metric, rate in _rates(verdicts, members, responses).items():
            yield Entry(**entry, group=group, metric=metric, rate=rate)
    if settings.naming:
        yield Entry(**entry, group=NAMING, metric="named", rate=_named(asked, settings))


def _groups(samples: Sequence[Sample], settings: StudySettings) -> dict[str, list[Sample]]:
    """Items by split, and those of the held-out categories."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(str(sample.split), []).append(sample)
    unseen = [s for s in samples if s.category in settings.held_out and s.split != FORMATTED]
    return groups | ({UNSEEN: unseen} if unseen else {})


def _rates(verdicts: Sequence[Verdict], samples: Sequence[Sample], responses: Sequence[Response]) -> dict[str, Rate]:
    known = {sample.id for sample in samples}
    return rates(
        [verdict for verdict in verdicts if verdict.sample_id in known],
        samples,
        [response for response in responses if response.sample_id in known],
    )


def _named(asked: GenerateSettings, settings: StudySettings) -> Rate:
    """Share of drawn concepts that are named, all styles together."""
    folder, samples = ensure_naming_data(console.say), naming_samples(limit=settings.naming)
    short = asked.generation.model_copy(update={"max_new_tokens": NAMING_TOKENS})
    _, responses = answer_all(
        samples, folder, asked.model_copy(update={"generation": short}), f"{settings.name}-naming"
    )
    return naming_rate(responses, samples)


def _generate_settings(name: str, adapters: Mapping[str, Path], settings: StudySettings) -> GenerateSettings:
    checkpoint = None if settings.train.model == "mini" else Path(settings.train.model)
    return GenerateSettings(
        variants=(name,),
        splits=settings.splits,
        data=settings.train.data,
        checkpoint=checkpoint,
        adapters={name: adapters.get(name)},
        generation=settings.generation,
        batch_size=settings.batch_size,
        device=settings.train.device or "cpu",
        runs=settings.runs,
        name=settings.name,
    )


def _rows(run: Path) -> int:
    """How many rows a finished training run was made of."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return int(result["rows"])


def _write(result: Study, settings: StudySettings) -> None:
    title = f"Mini study [{settings.train.model}]: {settings.rows or 'all'} rows a mixture"
    text = to_markdown(result.entries, result.findings, title=title)
    failed = "".join(f"\n- {name}: {reason}" for name, reason in result.failed.items())
    text += f"\n## Not trained\n{failed}\n" if failed else ""
    write_atomic(result.folder / "study.md", text.encode())
    content = {
        "settings": settings.model_dump(mode="json"),
        "entries": [entry.model_dump(mode="json") for entry in result.entries],
        "findings": [finding.model_dump(mode="json") for finding in result.findings],
        "failed": result.failed,
    }
    write_atomic(result.folder / "study.json", (json.dumps(content, indent=1) + "\n").encode())


def show(result: Study) -> Iterator[Table | Text]:
    """The study for a terminal: a table a group, then every finding in its words."""
    for group in dict.fromkeys(entry.group for entry in result.entries):
        headings, rows = cells(result.entries, group)
        table = Table(title=group, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
        for heading in headings:
            table.add_column(heading, justify="left" if heading == headings[0] else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        yield table
    for finding in result.findings:
        yield Text(in_words(finding), style=COLOURS.get(finding.agreement, ""))
    for name, reason in result.failed.items():
        yield Text(f"not trained: {name}: {reason}", style="red")
    yield Text(f"study: {result.folder / 'study.md'}", style="dim")


def _default_train() -> Train:
    from mis_lib.recipes.train import train_by

    return train_by
