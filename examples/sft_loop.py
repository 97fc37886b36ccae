"""Supervised fine-tuning in one file: row -> batch -> loss -> step -> adapter.

    python examples/sft_loop.py data/mis_mini/train.jsonl --model mini --steps 20 --out adapter

``mis train`` does the same with packing, stored image features, several GPUs, checkpoints and logs. This file shows
what happens to the rows.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from mis_lib.files import read_records
from mis_lib.models.mini.assemble import ensure_mini
from mis_lib.schema import Sample
from mis_lib.train.batches import collate
from mis_lib.train.encode import SEGMENTS, Example
from mis_lib.train.lora import groups, restore
from mis_lib.train.loss import AnswerHead
from mis_lib.train.model import load
from mis_lib.train.run import make_encoder
from mis_lib.train.settings import LoraSettings, TrainSettings


def train(data: Path, model: str, out: Path, *, steps: int = 20, batch_size: int = 4) -> list[float]:
    """Fine-tune a LoRA adapter and write it; returns the loss of each step.

    Args:
        data: JSON Lines file of samples; image paths are relative to its folder.
        model: ``mini``, a checkpoint folder or a hub id.
        out: folder of the adapter, in PEFT's format.
        steps: updates of the weights.
        batch_size: rows of one update.
    """
    # 1. Rows. A sample has a question, images and an answer; its folder says where the images are.
    rows = [Example(sample, data.parent) for sample in read_records(data, Sample) if sample.answer]
    print(f"{len(rows)} rows with an answer")

    # 2. Model. Only the LoRA factors of the language model are trained; the vision tower stays frozen and in eval mode.
    torch.manual_seed(0)
    settings = TrainSettings(model=model, lora=LoraSettings(rank=8, alpha=16), learning_rate=1e-3)
    loaded = load(settings, ensure_mini() if model == "mini" else model)
    for group in groups(loaded.model):
        print(f"{group.part.value}: {group.trained:,} of {group.parameters:,} parameters are trained")

    # 3. Encoder. The prompt's tokens are those that generation reads; labels are set at the answer and its end token
    # only.
    encoder = make_encoder(loaded, settings)
    first = encoder.row(rows[0])
    print(f"row {first.id}: {len(first)} tokens, of which {int((first.labels >= 0).sum())} are learned")

    # 4. Loss. The output layer computes logits at labelled positions only, with the scale and cap that the model has.
    head = AnswerHead(loaded.network)
    weights = [weight for weight in loaded.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate)

    # 5. Steps.
    dice = random.Random(0)
    losses: list[float] = []
    loaded.model.train()
    for step in range(1, steps + 1):
        chosen = [encoder.row(row) for row in dice.sample(rows, min(batch_size, len(rows)))]
        batch = collate(chosen, pad_token=encoder.tokenizer.pad_token_id).to(loaded.device)  # (rows, longest row)
        inputs = {
            name: value.to(loaded.network.dtype) if value.is_floating_point() else value
            for name, value in batch.inputs.items()
        }
        autocast = torch.autocast(torch.device(loaded.device).type, torch.bfloat16, enabled=loaded.autocast)
        with autocast, head.losses_at(batch.labels):
            output = loaded.model(**inputs, use_cache=False)
        loss = output.loss / batch.answer_tokens  # the mean over answer tokens, not over rows
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        accuracy = head.losses.hits.float().mean().item()
        print(f"step {step}: loss {losses[-1]:.4f}, {accuracy:.0%} of {batch.answer_tokens} answer tokens right")
        # each token knows its segment (perception, reasoning or answer); they are learned at different speeds
        segments = batch.segments[:, 1:][batch.labels[:, 1:] >= 0]
        for at, kind in enumerate(SEGMENTS):
            if (segments == at).any():
                print(f"  {kind.value}: loss {head.losses.each[segments == at].mean().item():.4f}")

    # 6. Adapter. ``mis generate --adapter``, vLLM and PEFT read it.
    restore(loaded.model)
    loaded.model.save_pretrained(out)
    print(f"Adapter: {out}")
    return losses


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Fine-tune a LoRA adapter in a plain loop.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("adapter"))
    given = parser.parse_args(arguments)
    train(given.data, given.model, given.out, steps=given.steps, batch_size=given.batch_size)


if __name__ == "__main__":
    main()
