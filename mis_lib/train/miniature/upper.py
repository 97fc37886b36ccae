"""Adapters in the upper layers only, with the lower layers' output computed once.

A frozen lower half gives the same hidden states in every epoch, so they are stored (250 kB a row in bfloat16) and each epoch costs the upper half alone: a
third of the time on a CPU. The adapter is a standard PEFT adapter whose lower layers are simply absent.
"""

import json
import math
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from mis_lib.train.miniature import together
from mis_lib.train.miniature.batches import Batch, Encoder
from mis_lib.train.miniature.curriculum import Row
from mis_lib.train.miniature.loop import Bank, batch_features, causal_mask, embed


class Stored(NamedTuple):
    """A batch after the lower layers: ``hidden`` (rows, length, width), ``labels`` (rows, length)."""

    hidden: torch.Tensor
    labels: torch.Tensor


def run_layers(model: Any, hidden: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Run decoder layers ``start`` to ``end`` (excluded) on right-padded rows; causal attention needs no padding mask."""
    language = model.model.language_model
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
    rotary = language.rotary_emb(hidden, positions)
    mask = causal_mask(hidden)
    for layer in language.layers[start:end]:
        output = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
        hidden = output[0] if isinstance(output, tuple) else output
    return hidden


@torch.no_grad()
def store(
    model: Any, bank: Bank, encoder: Encoder, rows: list[Row], *, lower: int, tokens: int, neighbours: int = 1
) -> list[Stored]:
    """Encode rows, group them by length and run them through the first ``lower`` layers; every ``neighbours`` rows stay together."""
    encoded = [encoder.row(row) for row in rows]
    groups = [encoded[start : start + neighbours] for start in range(0, len(encoded), neighbours)]
    groups.sort(key=lambda group: max(map(len, group)))
    stored, part = [], []
    for item in [*(row for group in groups for row in group), None]:
        longest = max(map(len, [*part, item])) if item is not None else 0
        if item is None or (len(part) % neighbours == 0 and part and (len(part) + neighbours) * longest > tokens):
            batch: Batch = encoder.batch(part)
            hidden = embed(model, batch.ids.to(bank.device), batch_features(bank, batch), encoder.image_id)
            lowered = run_layers(model, hidden, 0, lower)
            stored.append(Stored(lowered.to(torch.bfloat16), batch.labels))
            part = []
        if item is not None:
            part.append(item)
    return stored


def train_upper(
    model: Any,
    stored: list[Stored],
    parameters: list[nn.Parameter],
    *,
    lower: int,
    lr: float,
    seconds: float,
    log: Path,
    seed: int,
) -> dict[str, float]:
    """Train the upper layers' factors on stored batches, in random order, until ``seconds`` are used up (cosine rate)."""
    language, dice = model.model.language_model, random.Random(seed)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    together.begin_alike(parameters)
    started, losses, order, samples = time.monotonic(), [], [], 0
    with log.open("w", encoding="utf-8") as lines:
        while (used := together.agree((time.monotonic() - started) / seconds)) < 1:
            order = order or dice.sample(range(len(stored)), len(stored))
            batch = stored[order.pop()]
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (len(losses) + 1) / 30) * max(0.02, 0.5 * (1 + math.cos(math.pi * used)))
            hidden = batch.hidden.to(language.norm.weight.dtype)
            output = language.norm(run_layers(model, hidden, lower, len(language.layers)))
            wanted = batch.labels[:, 1:] != -100
            loss = F.cross_entropy(model.lm_head(output[:, :-1][wanted]).float(), batch.labels[:, 1:][wanted])
            loss.backward()
            together.average(parameters)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            samples += len(batch.labels)
            if len(losses) % 50 == 0:
                row = {
                    "step": len(losses),
                    "loss": round(sum(losses[-50:]) / 50, 4),
                    "epochs": round(len(losses) / len(stored), 2),
                }
                lines.write(json.dumps(row) + "\n")
                lines.flush()
    last = losses[-50:]
    return {
        "steps": len(losses),
        "samples": samples,
        "epochs": round(len(losses) / len(stored), 2),
        "seconds": round(time.monotonic() - started, 1),
        "loss": round(sum(last) / len(last), 4),
    }
