"""A comparison as a value: one question put to several variants at once, their answers, and its export as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mis_lib import __version__
from mis_lib.errors import DataError
from mis_lib.files import sha256
from mis_lib.generate.columns import Column
from mis_lib.generate.prompting import BARE, Prompted, Prompting
from mis_lib.generate.served import Served
from mis_lib.schema import Response, Sample, Segment, Verdict
from mis_lib.settings import GenerationSettings
from mis_lib.text.segments import segment
from workbench.prompt import Prompt


@dataclass(frozen=True)
class Answer(Column):
    """One variant's column, where it was asked, and its verdict or the reason why there is none."""

    served: Served | None = None
    """Server and model that answered; None on this machine."""
    verdict: Verdict | None = None
    no_verdict: str = ""

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The parts of the text."""
        return tuple(segment(self.text))

    @property
    def failed(self) -> bool:
        """Whether the answer is missing or broke off, and neither the person nor the model ended it."""
        return self.finish_reason == "failed"

    @property
    def whole(self) -> bool:
        """Whether it can be annotated: one that was stopped, failed or is still growing is no model's answer."""
        return self.finish_reason not in (None, "cancelled", "failed")

    @property
    def tokens_per_second(self) -> float:
        """Tokens (or chunks) over seconds since the start of generation, prefill included; 0 before the first one."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def response(self, sample_id: str) -> Response:
        """The answer as runs and judges take it."""
        return Response(
            sample_id=sample_id,
            variant=self.variant,
            text=self.text,
            tokens=self.tokens,
            seconds=self.seconds,
            finish_reason=self.finish_reason or "",
        )

    def to_json(self) -> dict[str, Any]:
        """The answer in a downloaded comparison."""
        counted = self.unit == "tokens"
        return {
            "variant": self.variant,
            "text": self.text,
            "tokens": self.tokens if counted else None,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens_per_second, 2) if counted else None,
            "finish_reason": self.finish_reason,
            **({} if counted else {"chunks": self.tokens}),
            **({"told": self.told} if self.told else {}),
            **({"server": self.served.url, "model": self.served.model} if self.served else {}),
            "segments": [part.model_dump(mode="json") for part in self.segments],
            "verdict": self.verdict.model_dump(mode="json") if self.verdict else None,
            "no_verdict": self.no_verdict or None,
        }


@dataclass(frozen=True)
class Comparison:
    """One question put to several variants at once, and their answers."""

    prompt: Prompt
    question: str
    settings: GenerationSettings
    answers: tuple[Answer, ...]
    sample: Sample | None = None  # the example, where neither images nor question were changed
    started: str = ""  # ISO 8601, UTC
    checkpoint: str = ""
    prompts: Prompting = BARE
    """Of the columns whose names have them."""
    columns: Mapping[str, Prompted] = field(default_factory=dict)
    """What each column is."""

    @property
    def finished(self) -> bool:
        """Whether every answer has ended."""
        return all(answer.finish_reason is not None for answer in self.answers)


def export(comparison: Comparison | None) -> str:
    """The comparison as JSON: everything needed to repeat it, images by name and hash.

    Raises:
        DataError: there is no comparison yet.
    """
    if comparison is None:
        raise DataError("there is nothing to download; press Compare first")
    found = {
        "format": "mis-workbench/comparison/1",
        "version": __version__,
        "started": comparison.started,
        "checkpoint": comparison.checkpoint or None,
        "question": comparison.question,
        "images": [
            {"name": image.name, "width": image.width, "height": image.height, "sha256": _hash(image.path)}
            for image in comparison.prompt.images
        ],
        "sample": comparison.sample.model_dump(mode="json") if comparison.sample else None,
        "settings": comparison.settings.model_dump(mode="json"),
        **({"prompts": comparison.prompts.model_dump(mode="json")} if comparison.prompts != BARE else {}),
        "answers": [answer.to_json() for answer in comparison.answers],
    }
    return json.dumps(found, indent=2, ensure_ascii=False)


def _hash(path: Path) -> str | None:
    """None where the upload was cleared away since (the comparison itself is still whole)."""
    return sha256(path) if path.is_file() else None
