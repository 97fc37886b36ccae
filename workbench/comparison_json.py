"""A comparison as JSON for download: everything needed to repeat it, images by name and hash."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mis_lib import __version__
from mis_lib.errors import DataError
from mis_lib.files import sha256
from workbench.compare.state import Answer, Comparison

if TYPE_CHECKING:
    pass


def export(comparison: Comparison | None) -> str:
    """The comparison as JSON: everything needed to repeat it, images by name and hash.

    Raises:
        DataError: there is no comparison yet.
    """
    if comparison is None:
        raise DataError("there is nothing to download; press Compare first")
    return json.dumps(_to_json(comparison), indent=2, ensure_ascii=False)


def _to_json(comparison: Comparison) -> dict[str, Any]:
    return {
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
        "answers": [_answer_json(answer) for answer in comparison.answers],
    }


def _answer_json(answer: Answer) -> dict[str, Any]:
    told = answer.unit == "tokens"
    return {
        "variant": answer.variant,
        "text": answer.text,
        "tokens": answer.tokens if told else None,
        "seconds": round(answer.seconds, 3),
        "tokens_per_second": round(answer.tokens_per_second, 2) if told else None,
        "finish_reason": answer.finish_reason,
        **({} if told else {"chunks": answer.tokens}),
        **({"told": answer.told} if answer.told else {}),
        **({"server": answer.served.url, "model": answer.served.model} if answer.served else {}),
        "segments": [part.model_dump(mode="json") for part in answer.segments],
        "verdict": answer.verdict.model_dump(mode="json") if answer.verdict else None,
        "no_verdict": answer.no_verdict or None,
    }


def _hash(path: Path) -> str | None:
    """None where the upload was cleared away since (the comparison itself is still whole)."""
    return sha256(path) if path.is_file() else None
