"""One flat training loop for the base model and for the shipped adapters.

The loss is taken at answer tokens only, so the vocabulary (49,216 logits) is never computed at image or question tokens. Rows are padded on the
right and attention is causal, so padding needs no mask. Tower and language weights are frozen bfloat16, factors and projector float32.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mis_lib.train.miniature.batches import Batch
from mis_lib.train.miniature.pictures import PictureBank


def strip_squeeze_excite(tower: nn.Module) -> None:
    """Replace Lite0's squeeze-excite blocks, which multiply by one, by nothing: same values, half the memory traffic."""
    for module in tower.modules():
        if hasattr(module, "squeeze_excite"):
            module.squeeze_excite = nn.Identity()


def embed(model: Any, ids: torch.Tensor, pixels: torch.Tensor | None, image_id: int) -> torch.Tensor:
    """Token embeddings (rows, length, width) with the projected image features in their places."""
    hidden = model.model.language_model.embed_tokens(ids)
    if pixels is None:
        return hidden
    tower = model.model.vision_tower
    with torch.no_grad():
        pixels = pixels.to(tower.dtype).to(memory_format=torch.channels_last)
        features = tower(pixels).last_hidden_state.flatten(2).transpose(1, 2)
    projected = model.model.multi_modal_projector(features.float()).to(hidden.dtype)
    return hidden.masked_scatter((ids == image_id)[..., None], projected)


def answer_loss(model: Any, bank: PictureBank, batch: Batch, image_id: int) -> torch.Tensor:
    """Mean cross-entropy over the answer tokens of a batch."""
    ids, labels = batch.ids.to(bank.device), batch.labels.to(bank.device)
    pixels = bank.pixels([*batch.pictures], augment=True) if batch.pictures else None
    hidden = embed(model, ids, pixels, image_id)
    output = model.model.language_model(inputs_embeds=hidden, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != -100
    logits = model.lm_head(output[:, :-1][wanted])
    return F.cross_entropy(logits.float(), labels[:, 1:][wanted])


def train(
    model: Any,
    bank: PictureBank,
    batches: Iterator[Batch],
    parameters: list[nn.Parameter],
    image_id: int,
    *,
    lr: float,
    steps: int,
    seconds: float,
    log: Path,
    save: Callable[[], None],
) -> dict[str, float]:
    """Train until ``steps`` or ``seconds`` are used up, whichever comes first; the rate falls as a cosine of the share used.

    Returns:
        Steps, samples, seconds and the mean loss of the last 50 steps.
    """
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, fused=bank.device != "cpu")
    started, losses, done, samples = time.monotonic(), [], 0, 0
    with log.open("w", encoding="utf-8") as lines:
        while True:
            used = max(done / steps, (time.monotonic() - started) / seconds)
            if used >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (done + 1) / 50) * max(0.02, 0.5 * (1 + math.cos(math.pi * used)))
            batch = next(batches)
            loss = answer_loss(model, bank, batch, image_id)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            done, samples = done + 1, samples + len(batch.ids)
            if done % 50 == 0 or done == steps:
                mean = float(torch.stack(losses[-50:]).mean())
                elapsed = time.monotonic() - started
                row = {"step": done, "loss": round(mean, 4), "samples_per_second": round(samples / elapsed, 1)}
                lines.write(json.dumps(row) + "\n")
                lines.flush()
                if done % 200 == 0:
                    print(row, flush=True)  # noqa: T201 -- the progress of a command-line program
            if done % 500 == 0:
                save()
    save()
    last = float(torch.stack(losses[-50:]).mean())
    return {"steps": done, "samples": samples, "seconds": round(time.monotonic() - started, 1), "loss": round(last, 4)}
