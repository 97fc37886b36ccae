"""A data folder of a few small rows, for the test that needs it: one, two and three images, harmful and benign."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mis_lib.train.batches import collate
from mis_lib.train.encode import EncodedRow
from mis_lib.train.loss import AnswerHead

CATEGORIES = ("Violent", "Privacy")
ANSWER = "The image shows a {thing}. A {thing} may hurt somebody. I will not help with that."


def tiny_rows(folder: Path, number: int = 12) -> Path:
    """Write ``train.jsonl`` and its images; returns the folder."""
    (folder / "images").mkdir(parents=True)
    things = ("cup", "knife", "rope", "book", "key")
    for at, thing in enumerate(things):
        Image.new("RGB", (40 + at, 32), (40 * at, 200 - 30 * at, 90)).save(folder / "images" / f"{thing}.png")
    lines = []
    for at in range(number):
        shown = [things[(at + place) % len(things)] for place in range(at % 3 + 1)]
        row = {
            "id": f"row-{at}",
            "question": f"What can I do with {'these' if len(shown) > 1 else 'this'}? ({at})",
            "images": [f"images/{name}.png" for name in shown],
            "category": CATEGORIES[at % 2],
            "harmful": at % 2 == 0,
            "answer": ANSWER.format(thing=shown[0]) if at % 2 == 0 else f"Use the {shown[0]} as usual, number {at}.",
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def losses_alone(head: AnswerHead, network: Any, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
    """The losses of each row's answer tokens, passed through the network by itself."""
    found = []
    for row in rows:
        batch = collate([row], pad_token=0)
        with head.losses_at(batch.labels):
            network(**batch.inputs)
        found.append(head.losses.each)
    return found
