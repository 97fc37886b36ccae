"""A variant of a run as an evaluation log of inspect-ai (``.eval``), written by inspect-ai's own writer.

Layout: UKGovernmentBEIS/inspect_ai, src/inspect_ai/log/_log.py (``EvalLog``) and scorer/_metric.py (``Score``). Each
judge is a scorer whose value is the outcome. A score that is missing has inspect's own value for that, NaN, and a
``reason``: ``unscored`` (the judge could not rule) or ``pending`` (it has not ruled yet). A sample without an answer
carries an error, and then the log's status is ``started``.
"""

import base64
import importlib
import json
import mimetypes
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mis_lib.data.export import image_file
from mis_lib.data.formats import system_prompt
from mis_lib.errors import DataError, MissingPackageError
from mis_lib.files import digest
from mis_lib.generate.prompting import BARE, Prompting
from mis_lib.results.evaluated import judges_of, read_samples, run_name
from mis_lib.results.metrics import METRICS, rates
from mis_lib.results.runs import ENVIRONMENT, Run, RunConfig
from mis_lib.results.stats import Rate
from mis_lib.schema import Outcome, Response, Sample, Verdict
from mis_lib.settings import ExportedImages
from mis_lib.text.thoughts import given

ATTACHMENT = "attachment://"
STOPS = {"stop": "stop", "length": "max_tokens", "content_filter": "content_filter"}
Log = dict[str, Any]


def eval_log(run: Run, variant: str, folder: Path, *, images: ExportedImages = ExportedImages.COPY) -> Log:
    """What ``EvalLog`` holds of one variant, as JSON values.

    Args:
        run: the stored run; every sample that any variant was asked is in the log.
        variant: one of its variants.
        folder: what the samples' images are relative to.
        images: copy them (attachments, as data URIs), or name their paths.

    Raises:
        DataError: a sample's images leave the folder, or verdicts contradict its samples.
        ImageError: an image is not there.
    """
    config, answers, trained_on = run.config, run.responses(), run.trained_on().get(variant, frozenset())
    prompting = config.prompts.get(variant, BARE)
    samples = list({one.id: one for one in [*run.samples(), *read_samples(run, answers)]}.values())
    said = {one.sample_id: one for one in answers if one.variant == variant}
    verdicts = {
        judge: {one.sample_id: one for one in run.verdicts(judge) if one.variant == variant and one.sample_id in said}
        for judge in judges_of(run)
    }

    def row(sample: Sample) -> Log:
        shown, attachments = _images(sample, folder, images)
        asked = _asked(prompting, sample, shown, said.get(sample.id))
        scores = {judge: _score(found.get(sample.id)) for judge, found in verdicts.items()}
        more = {"scores": scores, "attachments": attachments}
        return (
            _asked_only(sample, asked, sample.id in trained_on) | more | _answered(variant, asked, said.get(sample.id))
        )

    return {
        "status": "success" if len(said) == len(samples) else "started",
        "eval": _spec(run, config, variant, samples),
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(said),
            "scores": [
                _scorer(judge, list(found.values()), samples, list(said.values())) for judge, found in verdicts.items()
            ],
        },
        "samples": [row(sample) for sample in samples],
    }


def write_eval_log(log: Log, file: Path) -> Path:
    """Write a log with inspect-ai, in one step.

    Raises:
        MissingPackageError: inspect-ai is not installed.
        DataError: the file cannot be written.
    """
    try:
        inspect_log = importlib.import_module("inspect_ai.log")
    except ImportError as error:
        raise MissingPackageError(
            f"--format inspect needs the package inspect-ai ({error}); pip install 'mis-workbench[inspect]'"
        ) from error
    draft = file.with_name(f".{file.stem}.draft.eval")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        inspect_log.write_eval_log(inspect_log.EvalLog.model_validate(log), str(draft))
        draft.replace(file)
    except OSError as error:
        raise DataError(f"{file}: expected to write there, found: {error.strerror}; name another folder") from error
    finally:
        draft.unlink(missing_ok=True)
    return file


def _spec(run: Run, config: RunConfig, variant: str, samples: Sequence[Sample]) -> Log:
    name = run_name(run)
    kept = json.loads((run.folder / ENVIRONMENT).read_text(encoding="utf-8"))
    generation = config.generation
    begun = datetime.fromtimestamp((run.folder / ENVIRONMENT).stat().st_mtime, UTC)
    return {
        "eval_id": digest(f"{name} {variant}")[:22],
        "run_id": digest(name)[:22],
        "created": begun.isoformat(timespec="seconds"),
        "task": name,
        "task_id": digest(f"{name} {config.data_digest}")[:22],
        "dataset": {
            "name": Path(config.data).name,
            "location": config.data,
            "samples": len(samples),
            "sample_ids": [sample.id for sample in samples],
        },
        "model": f"{config.tag}/{variant}",
        "model_args": {"checkpoint": config.checkpoint, "dtype": config.dtype, "quantization": config.quantization},
        "model_generate_config": {
            "max_tokens": generation.max_new_tokens,
            "temperature": generation.temperature,
            "seed": generation.seed,
        }
        if generation
        else {},
        "config": {},
        "packages": {"mis-workbench": str(kept.get("mis", "")), **kept.get("packages", {})},
        "metadata": {"selection": config.selection, "backend": config.backend, "data_digest": config.data_digest},
        "scorers": [
            {"name": judge, "options": {"fingerprint": config.judges.get(judge, "")}} for judge in judges_of(run)
        ],
    }


def _scorer(judge: str, verdicts: Sequence[Verdict], samples: Sequence[Sample], answers: Sequence[Response]) -> Log:
    """A judge's rates in percent, over-refusal among them; what could not be scored is in no rate."""
    found = rates(verdicts, samples, answers)
    scored = sum(one.outcome is not Outcome.UNSCORED for one in verdicts)
    return {
        "name": judge,
        "scorer": judge,
        "scored_samples": scored,
        "unscored_samples": len(samples) - scored,
        "metrics": {name: _metric(name, rate) for name, rate in found.items()},
    }


def _metric(name: str, rate: Rate) -> Log:
    value = float("nan") if rate.value is None else rate.value
    more = {"n": rate.n, "n_unscored": rate.n_unscored, "low": rate.low, "high": rate.high, "unit": "percent"}
    return {"name": name, "value": value, "metadata": {**more, "description": METRICS[name].description}}


def _asked_only(sample: Sample, asked: list[Log], trained_on: bool) -> Log:
    known = sample.model_dump(mode="json", exclude={"id", "question", "answer"})
    return {
        "id": sample.id,
        "epoch": 1,
        "input": asked,
        "target": sample.answer or "",
        "metadata": {**known, "trained_on": trained_on},
    }


def _answered(variant: str, asked: list[Log], response: Response | None) -> Log:
    if response is None:
        return {"messages": asked, "error": {"message": "no answer yet", "traceback": "", "traceback_ansi": ""}}
    output = _output(variant, response)
    messages = [*asked, output["choices"][0]["message"]]
    return {"messages": messages, "output": output, "total_time": response.seconds}


def _asked(prompting: Prompting, sample: Sample, shown: Sequence[str], response: Response | None) -> list[Log]:
    """The turns as the variant was asked, images before the text; without an answer, a dialogue as its row has it."""
    question, system = prompting.asked(sample.question, system_prompt(sample))
    turns, left = [{"role": "system", "content": system}] if system else [], list(shown)
    replies = [given(one) for one in response.earlier] if response else [turn.answer for turn in sample.history]
    for turn, reply in zip(sample.history, replies, strict=False):  # one that broke off has fewer
        turns.append(_user(prompting.asked(turn.question)[0], left[: turn.images]))
        turns.append({"role": "assistant", "content": reply or ""})
        left = left[turn.images :]
    return [*turns, _user(question, left)]


def _user(question: str, shown: Sequence[str]) -> Log:
    images = [{"type": "image", "image": image} for image in shown]
    return {"role": "user", "content": [*images, {"type": "text", "text": question}]}


def _images(sample: Sample, folder: Path, images: ExportedImages) -> tuple[list[str], dict[str, str]]:
    """A sample's images as a log names them, and its attachments."""
    paths = [image_file(folder, image) for image in sample.images]
    if images is ExportedImages.KEEP:
        return [str(path.resolve()) for path in paths], {}
    uris = [_data_uri(path) for path in paths]
    return [f"{ATTACHMENT}{digest(uri)}" for uri in uris], {digest(uri): uri for uri in uris}


def _data_uri(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _output(variant: str, response: Response) -> Log:
    thought = [{"type": "reasoning", "reasoning": response.thought}] if response.thought else []
    content = [*thought, {"type": "text", "text": response.text}] if thought else response.text
    message = {"role": "assistant", "content": content, "source": "generate"}
    steps = [step.model_dump(mode="json") for step in response.steps]
    return {
        "model": variant,
        "choices": [{"message": message, "stop_reason": STOPS.get(response.finish_reason, "unknown")}],
        "usage": {"output_tokens": response.tokens, "total_tokens": response.tokens},
        "time": response.seconds,
        "metadata": {"finish_reason": response.finish_reason, "key": response.key, "steps": steps},
    }


def _score(verdict: Verdict | None) -> Log:
    if verdict is None:
        return {"value": float("nan"), "reason": "pending", "explanation": "this judge has not ruled on it yet"}
    more = verdict.model_dump(mode="json", include={"level", "score", "raw", "label"})
    if verdict.outcome is Outcome.UNSCORED:
        return {"value": float("nan"), "reason": "unscored", "explanation": verdict.reason, "metadata": more}
    return {"value": verdict.outcome.value, "explanation": verdict.reason, "metadata": more}
