"""The library's inside, as far as contracts need it; only this file follows where modules move.

Each function says what it promises in plain values (text, numbers, lists, mappings), so that no test depends on a
class.
"""

import asyncio
import json
from pathlib import Path
from typing import Any


def answer_key(sample: dict[str, Any], variant: str, config: dict[str, Any], data: Path) -> str:
    """The key under which a run with this ``config.yaml`` stores its answer to a sample."""
    from mis_lib.generate.keys import AnswerKeys
    from mis_lib.schema import Sample
    from mis_lib.settings import GenerationSettings

    same = {**GenerationSettings(**config["generation"]).model_dump(), "dtype": config["dtype"]}
    keys = AnswerKeys(data, config["checkpoint_digest"], config["variants"], same)
    return keys.of(Sample.model_validate(sample), variant)


def sampling_seed(sample: dict[str, Any], seed: int) -> int:
    """The seed of one sample's draws above temperature 0."""
    from mis_lib.schema import Sample
    from mis_lib.settings import GenerationSettings

    return GenerationSettings(temperature=1.0, seed=seed).seed_for(Sample.model_validate(sample).id)


def folder_digest(folder: Path) -> str:
    """What tells a checkpoint, an adapter or a data folder from another."""
    from mis_lib.results.runs import folder_digest

    return folder_digest(folder)


def embedded_model() -> str:
    """Name of the folder of the embedded model, which follows from what it is assembled of."""
    from mis_lib.models.mini.assemble import mini_folder

    return mini_folder().name


def strangeness(adapter: Path, checkpoint: Path) -> str:
    """What is said where an adapter belongs to another checkpoint; empty where it does not."""
    from mis_lib.models.adapters import base_mismatch

    return base_mismatch("it", adapter, checkpoint)


def with_rubrics(folder: Path, monkeypatch: Any) -> None:
    """Let the rubric judge use the rubrics of a folder, such as those that stored replies were paid for with."""
    from mis_lib.judge import rubric

    texts = {harmful: (folder / f"{name}.md").read_text(encoding="utf-8").strip()
             for harmful, name in ((True, "harmful"), (False, "benign"))}  # fmt: skip
    monkeypatch.setattr(rubric, "rubric", texts.__getitem__)


def rule_fingerprint() -> str:
    """What the rule judge's stored verdicts are fresh by."""
    from mis_lib.judge import rule

    return rule.fingerprint()


def rule_outcome(sample: dict[str, Any], text: str, finish_reason: str) -> tuple[str, str]:
    """Outcome and reason of the rule judge."""
    from mis_lib.judge import rule
    from mis_lib.schema import Sample

    found = rule.decide(Sample.model_validate(sample), text, finish_reason)
    return found.outcome.value, found.reason


def read_run(folder: Path) -> dict[str, Any]:
    """A run as the library reads it: configuration, samples, responses, verdicts by judge."""
    from mis_lib.results.runs import Run

    run = Run(folder)
    judges = sorted(path.stem for path in (folder / "verdicts").glob("*.jsonl"))
    return {
        "config": run.config.model_dump(mode="json"),
        "samples": [one.model_dump(mode="json") for one in run.samples()],
        "responses": [one.model_dump(mode="json") for one in run.responses()],
        "verdicts": {judge: [one.model_dump(mode="json") for one in run.verdicts(judge)] for judge in judges},
    }


def run_names(root: Path) -> list[str]:
    """All runs of a folder that can be evaluated, as the app lists them."""
    from mis_lib.results.evaluated import find_runs

    return sorted(run.folder.relative_to(root).as_posix() for run in find_runs(root))


def read_training(folder: Path) -> dict[str, Any]:
    """A training as the library reads it: settings, digests, result."""
    from mis_lib.results.train_runs import TrainRun
    from mis_lib.train.settings import TrainSettings

    run = TrainRun(folder)
    settings = run.settings(TrainSettings)
    return {
        "settings": None if settings is None else settings.model_dump(mode="json"),
        "digests": run.environment["digests"],
        "result": run.result,
    }


def training_curve(folder: Path) -> list[dict[str, Any]]:
    """Losses of a training by step."""
    from mis_lib.files import read_jsonl

    return list(read_jsonl(folder / "train_log.jsonl"))


def annotation_history(runs: Path) -> list[dict[str, Any]]:
    """Every event of the annotations, in order."""
    from mis_lib.annotate.store import AnnotationStore

    store = AnnotationStore(root=runs)
    try:
        return [event.model_dump(mode="json") for event in store.events()]
    finally:
        store.close()


def annotations_now(runs: Path) -> list[dict[str, Any]]:
    """What holds now, one row a person and response."""
    from mis_lib.annotate.store import AnnotationStore

    store = AnnotationStore(root=runs)
    try:
        return json.loads(store.frame().to_json(orient="records"))
    finally:
        store.close()


def decide(
    runs: Path, author: str, run: str, sample: dict[str, Any], variant: str, response: str, outcome: str
) -> None:
    """Record a decision, as the app does."""
    from mis_lib.annotate.decisions import Decision, Subject
    from mis_lib.annotate.store import AnnotationStore
    from mis_lib.schema import Outcome, Sample

    store = AnnotationStore(root=runs)
    subject = Subject(run=run, variant=variant, sample=Sample.model_validate(sample), response=response)
    store.record(author, subject, Decision(outcome=Outcome(outcome)))
    store.close()


def undo(runs: Path, author: str) -> None:
    """Take the author's latest decision back."""
    from mis_lib.annotate.store import AnnotationStore

    store = AnnotationStore(root=runs)
    store.undo(author)
    store.close()


def paid_once(folder: Path, question: Any, answer: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Ask the cache of paid replies; returns what it says and how many were paid for now."""
    from mis_lib.clients.cache import Cache

    async def pay() -> dict[str, Any]:
        return answer

    cache = Cache(folder)
    return asyncio.run(cache.once(question, pay)), cache.paid
