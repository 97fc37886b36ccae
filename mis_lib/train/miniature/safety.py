"""Stages "mirage", "refusal" and "textual": adapters on the finished base, from the items of MIS-Mini.

    python -m mis_lib.train.miniature.safety --stage mirage --assets FOLDER --base FOLDER --data MIS_MINI --out FOLDER

- mirage: harmful items answered by their safety chain of thought, benign twins by help, and general data (paper section 3.3).
- refusal: the same harmful items answered "I'm sorry ...", and general data, no twins: the paper's label ablation (table 11). It shows
  what a perfect attack success rate can hide.
- textual: the harmful items and their twins put in words, with black images (Textual SFT, paper section 2.1), and general data.

Pictures are drawn anew, augmented, each time a row is drawn; only OpenMoji, Twemoji and the helper styles of the base stage, never the unseen one.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mis_lib.construct.labels import perceive, perception_of, refusal_label, with_article
from mis_lib.files import read_records
from mis_lib.models.mini import assemble, merge_base
from mis_lib.schema import Sample
from mis_lib.train.miniature.assets import STYLES, load_cutouts, load_drawings
from mis_lib.train.miniature.base import load_dreams, photo_classes
from mis_lib.train.miniature.batches import Batches, Encoder, loader
from mis_lib.train.miniature.curriculum import Curriculum, Row
from mis_lib.train.miniature.loop import TowerBank, train
from mis_lib.train.miniature.lowrank import add_low_rank, save_adapter
from mis_lib.train.miniature.pictures import Picture, PictureBank
from mis_lib.train.miniature.score import naming, outcomes

# share of rows that are harmful items, benign twins, general data
MIXES = {"mirage": (0.42, 0.38, 0.20), "refusal": (0.5, 0.0, 0.5), "textual": (0.35, 0.25, 0.40)}

OPENING = 3


class SafetyRows:
    """Draws training rows of one stage by lot.

    Args:
        stage: a key of ``MIXES``.
        samples: training items of MIS-Mini.
        general: draws a row of general data.
        drawn: names of the drawn concepts, by index.
        seed: makes the sequence of rows repeatable.
        told: share of mirage's safety rows that come without images, the perception given: such a row teaches what follows
            from two named things at half the tokens.
        opened: share of those rows that end after ``OPENING`` tokens. Whether an answer warns or helps shows in its first word, and of a whole
            answer's loss that word is one part in a hundred: cut short, the decision is what is learned.
    """

    def __init__(
        self,
        stage: str,
        samples: list[Sample],
        general: Callable[[], Row],
        drawn: list[str],
        seed: int,
        told: float = 0.0,
        opened: float = 0.0,
    ) -> None:
        self.told, self.opened = told, opened
        self.stage, self.general, self.dice = stage, general, random.Random(seed)
        self.harmful = [sample for sample in samples if sample.harmful]
        self.benign = [sample for sample in samples if not sample.harmful]
        self.by_id = {sample.id: sample for sample in samples}
        self.position = {name: index for index, name in enumerate(drawn)}
        self.questions: dict[str, list[str]] = {}
        for sample in samples:
            asked = self.questions.setdefault(sample.provenance["block"], [])
            if sample.question not in asked:
                asked.append(sample.question)

    def row(self) -> Row:
        """One row: a harmful item, a benign twin or general data."""
        kind = self.dice.choices(("harmful", "benign", "general"), MIXES[self.stage])[0]
        if kind == "general":
            return self.general()
        sample = self.dice.choice(self.harmful if kind == "harmful" else self.benign)
        # any training question of the block fits any of its pairs
        question = self.dice.choice(self.questions[sample.provenance["block"]])
        answer = sample.answer or ""
        if self.stage == "refusal":
            answer = refusal_label(f"{self.dice.random()}").text
        if self.stage == "textual":
            return self._in_words(sample, question, answer)
        if (
            self.stage == "mirage"
            and self.dice.random() < self.told
            and answer.startswith(perceive(sample.objects or []))
        ):
            return self._told(sample, question, OPENING if self.dice.random() < self.opened else 0)
        return Row([Picture("drawn", self.position[name]) for name in sample.objects or []], question, answer)

    def told_pair(self) -> list[Row]:
        """A harmful item and its benign twin under the same question, both without images: they differ in one name, which decides."""
        harmful = self.dice.choice(self.harmful)
        question = self.dice.choice(self.questions[harmful.provenance["block"]])
        opening = OPENING if self.dice.random() < self.opened else 0
        return [self._told(sample, question, opening) for sample in (harmful, self.by_id[harmful.twin_id or ""])]

    def _told(self, sample: Sample, question: str, opening: int) -> Row:
        answer, names = sample.answer or "", sample.objects or []
        # a row that ends after the decision starts right before it, behind the kinds; a whole answer finds them itself
        seen = perception_of(answer, names) if opening else perceive(names)
        return Row([], question, answer.removeprefix(seen), given=seen, opening=opening)

    def _in_words(self, sample: Sample, question: str, answer: str) -> Row:
        first, second = (with_article(name) for name in sample.objects or [])
        words = f"Imagine that the first image shows {first} and the second image shows {second}. {question}"
        if sample.harmful:
            answer = refusal_label(f"{self.dice.random()}").text
        return Row([Picture("black", 0), Picture("black", 0)], words, answer)


def main() -> None:
    """Run one stage from the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--stage", choices=sorted(MIXES), required=True)
    options.add_argument("--assets", type=Path, required=True)
    options.add_argument("--base", type=Path, required=True, help="what the base stage wrote")
    options.add_argument("--data", type=Path, required=True, help="a folder of MIS-Mini")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--seconds", type=float, default=100)
    options.add_argument("--steps", type=int, default=100_000)
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--lr", type=float, default=5e-4)
    options.add_argument("--tokens", type=int, default=20_000)
    options.add_argument("--workers", type=int, default=8)
    options.add_argument("--score_items", type=int, help="score this many items only (for a quick try)")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--score_base", action="store_true", help="also score the base before training")
    settings = options.parse_args()
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    drawings, drawn = load_drawings(settings.assets)
    cutouts, cutout_names = load_cutouts(settings.assets)
    dreams = load_dreams(settings.base)
    pictures = PictureBank(drawings, list(STYLES), cutouts, dreams, device)
    model, processor = assemble(next(settings.assets.glob("*.gguf")), next(settings.assets.glob("*.pth")))
    merge_base(model, settings.base)
    model.to(device).requires_grad_(False)
    bank = TowerBank(pictures, model.model.vision_tower)
    model.model.multi_modal_projector.float()
    encoder = Encoder(processor)

    train_samples = read_records(settings.data / "train.jsonl", Sample)
    tests = {
        split: read_records(settings.data / f"{split}.jsonl", Sample)[: settings.score_items]
        for split in ("easy", "hard", "real")
    }
    photos = [("cutout", index, name) for index, name in enumerate(cutout_names)]
    photos += [("dream", index, photo_classes()[index // (len(dreams) // 1000)]) for index in range(len(dreams))]
    known = set(drawn) | {name for _, _, name in photos}
    distilled = json.loads((settings.base / "distilled.json").read_text(encoding="utf-8"))
    rows = [row for row in distilled if all(name in known for name in row[0])]
    result: dict[str, Any] = {"stage": settings.stage}
    if settings.score_base:
        result["base"] = {
            split: outcomes(model.eval(), encoder, bank, samples, drawn)[0] for split, samples in tests.items()
        }
        print(json.dumps(result), flush=True)

    batches = Batches(
        lambda seed: (
            SafetyRows(settings.stage, train_samples, Curriculum(drawn, photos, rows, seed).row, drawn, seed).row
        ),
        encoder,
        settings.tokens,
        settings.seed,
    )
    layers = add_low_rank(model, settings.rank, 2 * settings.rank)
    result |= train(
        model.train(),
        bank,
        loader(batches, settings.workers),
        [factor for layer in layers.values() for factor in (layer.lora_A, layer.lora_B)],
        encoder.image_id,
        lr=settings.lr,
        steps=settings.steps,
        seconds=settings.seconds,
        log=settings.out / f"train_log-{settings.stage}.jsonl",
        save=lambda: save_adapter(settings.out / settings.stage, layers, settings.rank, 2 * settings.rank),
    )
    print(json.dumps(result), flush=True)
    answers = []
    for split, samples in tests.items():
        result[split], judged = outcomes(model.eval(), encoder, bank, samples, drawn)
        answers += [
            {"id": sample.id, "objects": sample.objects, "text": text, "outcome": outcome}
            for sample, text, outcome in judged
        ]
        print(json.dumps({split: result[split]}), flush=True)
    result["naming"] = naming(model, encoder, bank, drawn, [], settings.score_items)
    result["settings"] = {name: str(value) for name, value in vars(settings).items()}
    result["total_seconds"] = round(time.monotonic() - started, 1)
    if device == "cuda":
        result["card"] = torch.cuda.get_device_name()
    (settings.out / f"result-{settings.stage}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    (settings.out / f"answers-{settings.stage}.json").write_text(json.dumps(answers), encoding="utf-8")
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
