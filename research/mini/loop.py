"""One flat training loop for the base model.

The loss is taken at answer tokens only, so the vocabulary (49,216 logits) is never computed at image or question
tokens. Rows are padded on the right and attention is causal, so padding needs no mask. Tower and language weights are
frozen bfloat16, factors and projector float32.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from research.mini import together
from research.mini.batches import Batch
from research.mini.pictures import Picture, PictureBank

SAVE_EVERY = 50  # steps


def strip_squeeze_excite(tower: nn.Module) -> None:
    """Replace Lite0's squeeze-excite blocks, which multiply by one: same values, half the memory traffic."""
    for module in tower.modules():
        if hasattr(module, "squeeze_excite"):
            module.squeeze_excite = nn.Identity()


class Bank(Protocol):
    """Where image features come from.

    Pictures rendered now (``TowerBank``) or features computed before (``FeatureBank``).
    """

    device: str

    def features(self, pictures: list[Picture], *, augment: bool) -> torch.Tensor:
        """Tower features of pictures, (n, 9, 1280)."""
        ...


class TowerBank:
    """Renders pictures and runs the tower over them, each time anew: for a device on which that is cheap."""

    def __init__(self, pictures: PictureBank, tower: Any) -> None:
        self.pictures, self.tower, self.device = pictures, tower, pictures.device
        strip_squeeze_excite(tower)
        tower.to(memory_format=torch.channels_last)

    def features(self, pictures: list[Picture], *, augment: bool) -> torch.Tensor:
        """Tower features of pictures, (n, 9, 1280)."""
        return self.look(self.pictures.pixels(pictures, augment=augment))

    def framed(self, pictures: list[Picture]) -> torch.Tensor:
        """Tower features (n, 9, 1280) of drawings as MIS-Mini shows its own."""
        return self.look(self.pictures.framed(pictures))

    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tower features (n, 9, 1280) of pixels (n, 3, 224, 224) in the tower's normalisation."""
        return tower_features(self.tower, pixels)


@torch.no_grad()
def tower_features(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What ``TowerBank.look`` gives, of any tower, on its device."""
    first = next(tower.parameters())
    pixels = pixels.to(first.device, first.dtype, memory_format=torch.channels_last)
    return tower(pixels).last_hidden_state.flatten(2).transpose(1, 2)


def embed(model: Any, ids: torch.Tensor, features: torch.Tensor | None, image_id: int) -> torch.Tensor:
    """Token embeddings (rows, length, width) with the projected image features in their places."""
    hidden = model.model.language_model.embed_tokens(ids)
    if features is None:
        return hidden
    projector = model.model.multi_modal_projector
    projected = projector(features.to(next(projector.parameters()).dtype)).to(hidden.dtype)
    return hidden.masked_scatter((ids == image_id)[..., None], projected)


def batch_features(bank: Bank, batch: Batch) -> torch.Tensor | None:
    """Features of a batch's pictures, (pictures, 9, 1280); ``None`` without pictures."""
    return bank.features(batch.pictures, augment=True) if batch.pictures else None


def causal_mask(hidden: torch.Tensor) -> torch.Tensor:
    """The additive mask (1, 1, length, length) of rows padded on the right."""
    length = hidden.shape[1]
    mask = torch.full((length, length), torch.finfo(hidden.dtype).min, dtype=hidden.dtype, device=hidden.device)
    return mask.triu(1)[None, None]


def answer_loss(model: Any, bank: Bank, batch: Batch, image_id: int) -> torch.Tensor:
    """Mean cross-entropy over the answer tokens of a batch."""
    ids, labels = batch.ids.to(bank.device), batch.labels.to(bank.device)
    hidden = embed(model, ids, batch_features(bank, batch), image_id)
    output = model.model.language_model(
        inputs_embeds=hidden, attention_mask=causal_mask(hidden), use_cache=False
    ).last_hidden_state
    wanted = labels[:, 1:] != -100
    logits = model.lm_head(output[:, :-1][wanted])
    return F.cross_entropy(logits.float(), labels[:, 1:][wanted])


def compile_layers(model: Any) -> None:
    """Fuse each decoder layer's small operations with torch.compile, and use plain attention.

    Twice as fast on a CPU with a compiler.

    PyTorch's fused attention is slow backwards on a CPU, where sequences of 150 tokens do not need it.
    """
    language = model.model.language_model
    language.config._attn_implementation = "eager"
    for layer in language.layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)


def train(
    model: Any,
    bank: Bank,
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
    """Train until ``steps`` or ``seconds`` are used up, whichever comes first.

    The rate falls as a cosine of the share used.

    In a run of several processes (``together``) each takes batches of its own, and all take the same step.

    Returns:
        Steps, samples, seconds and the mean loss of the last 50 steps.
    """
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, fused=bank.device != "cpu")
    together.begin_alike(parameters)
    started, losses, done, samples = time.monotonic(), [], 0, 0
    with log.open("w", encoding="utf-8") as lines:
        while True:
            used = together.agree(max(done / steps, (time.monotonic() - started) / seconds))
            if used >= 1:
                break
            for group in optimizer.param_groups:
                warm = min(1.0, max((done + 1) / 50, used / 0.05))
                group["lr"] = lr * warm * max(0.02, 0.5 * (1 + math.cos(math.pi * used)))
            batch = next(batches)
            loss = answer_loss(model, bank, batch, image_id)
            loss.backward()
            together.average(parameters)
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
                    print(row, flush=True)
            if done % SAVE_EVERY == 0:
                save()
    save()
    last = float(torch.stack(losses[-50:]).mean())
    return {"steps": done, "samples": samples, "seconds": round(time.monotonic() - started, 1), "loss": round(last, 4)}
