"""``mis ablate``: the same items with their images removed, exchanged or described in words, for several variants.

An ablation is an ordinary run (``results.runs``) whose samples are probes (``probe.ablation``), so it is resumed,
judged and stored like any other. Its folder also has ``probes.jsonl`` (what each probe is) and ``ablation.json`` (what
was measured).
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from mis_lib.errors import DataError, SettingsError
from mis_lib.files import write_atomic, write_records
from mis_lib.probe.ablation import Measured, Probe, Skipped, State, ablation_tables, make_probes, measure, read_probes
from mis_lib.recipes.generate import answer_all
from mis_lib.recipes.judge import check_judge, is_stored, verdicts_on
from mis_lib.recipes.progress import say
from mis_lib.recipes.samples import read_samples
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.results.runs import PROBES, Run
from mis_lib.results.tables import Table
from mis_lib.schema import Sample
from mis_lib.settings import RULE, GenerationSettings, Judged

SUMMARY = "ablation.json"


class AblateSettings(GenerateSettings):
    """What is ablated and how; model, data and generation as for ``mis report``."""

    variants: tuple[str, ...] = ("mini", "mirage")
    splits: tuple[str, ...] = ("hard",)
    states: tuple[State, ...] = (State.BLACK, State.MEAN, State.NOISE, State.DROPPED, State.CAPTION, State.TWIN)
    """What is done to images, one at a time and to all together: black mean noise dropped caption twin."""
    swap: bool = True
    """Ask with the images in reverse order, too."""
    benign: bool = False
    """Ablate the benign twins as well."""
    limit: int | None = Field(default=24, ge=1)
    judge: Judged = RULE
    """Whose verdicts are measured: a judge as for ``mis judge --judges``, or the bare name of one that has ruled."""
    noise_seed: int = Field(default=0, ge=0)
    """Seed of the images of noise."""
    generation: GenerationSettings = GenerationSettings()
    name: str = "ablate"


class Ablation:
    """What an ablation holds: its run, its probes, what was left out and what was measured."""

    def __init__(self, run: Run, probes: list[Probe], skipped: list[Skipped], measured: list[Measured]) -> None:
        self.run, self.probes, self.skipped, self.measured = run, probes, skipped, measured

    def tables(self) -> list[Table]:
        """The tables of this ablation."""
        return ablation_tables(self.measured, tag=self.run.config.tag, skipped=self.skipped)


def ablate(settings: AblateSettings) -> Ablation:
    """Make the probes, generate and judge what is missing, measure, and keep everything in the run folder.

    Raises:
        MisError: a variant, split, file or model cannot be used; the message says which and why.
    """
    if not settings.states and not settings.swap:
        raise SettingsError("--states: expected at least one, or --set swap=true; found nothing to change")
    samples, folder = read_samples(settings)
    probes, skipped = _probes(settings, samples, folder)
    if not is_stored(settings.judge):
        check_judge(settings.judge, samples)
    run, responses = answer_all([probe.asked for probe in probes], folder, settings, settings.name)
    _keep(run, probes)
    truths = [probe.truth for probe in probes]
    measured = measure(probes, verdicts_on(run, settings.judge, truths, responses, folder))
    content = json.dumps([one.model_dump(mode="json") for one in measured], indent=1)
    write_atomic(run.folder / SUMMARY, f"{content}\n".encode())
    return Ablation(run, probes, skipped, measured)


def _probes(settings: AblateSettings, samples: Sequence[Sample], folder: Path) -> tuple[list[Probe], list[Skipped]]:
    chosen = [sample for sample in samples if sample.harmful or settings.benign]
    if not chosen:
        raise DataError(
            f"{folder}: expected harmful items in {', '.join(settings.splits)}, found none; name other splits"
        )
    say(f"Preparing {len(chosen):,} items under each condition")
    twins = {sample.id: sample for sample in samples}
    probes, skipped = make_probes(chosen, twins, folder, settings.states, swap=settings.swap, seed=settings.noise_seed)
    if not probes:
        raise DataError(f"{folder}: expected items with images, which are what is ablated, found items of text alone")
    return probes, skipped


def _keep(run: Run, probes: Sequence[Probe]) -> None:
    """Add the probes to those that the run folder knows from earlier calls."""
    with run.locked():
        known = {probe.id: probe for probe in read_probes(run)}
        write_records(run.folder / PROBES, {**known, **{probe.id: probe for probe in probes}}.values())
