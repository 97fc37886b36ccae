"""One flat training loop for the base model and for the shipped adapters.

Sequences are short and alike, so a batch is padded to a multiple of 16; the loss is taken at answer tokens only, so the vocabulary
(49,216 logits) is never computed at image or question tokens. Tower and language weights are frozen bfloat16, factors and
projector float32.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mis_lib.prompts import to_messages
from mis_lib.train.miniature.curriculum import Row
from mis_lib.train.miniature.pictures import PictureBank

IMAGE_TOKENS = 49


class Encoder:
    """Turns rows into token ids with the chat template that generation uses; image placeholders are repeated 49 times."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.image_id = self.tokenizer.convert_tokens_to_ids(processor.image_token)
        self.cache: dict[tuple[int, str], list[int]] = {}

    def prompt(self, images: int, question: str) -> list[int]:
        """Token ids of the user's turn, ready for the assistant to answer."""
        key = (images, question)
        if key not in self.cache:
            messages = to_messages(list(range(images)), question)
            text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            text = text.replace(self.processor.image_token, self.processor.image_token * IMAGE_TOKENS)
            self.cache[key] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self.cache[key]

    def batch(self, rows: list[Row], device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Right-padded ``ids``, ``labels`` (-100 outside the answer) and ``mask``, each (rows, length)."""
        prompts = [self.prompt(len(row.pictures), row.question) for row in rows]
        answers = [self.tokenizer(row.answer + "<|im_end|>", add_special_tokens=False).input_ids for row in rows]
        longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        length = -(-longest // 16) * 16
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), length), -100)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            ids[index, :end] = torch.tensor(prompt + answer)
            labels[index, len(prompt) : end] = torch.tensor(answer)
            mask[index, :end] = 1
        return ids.to(device), labels.to(device), mask.to(device)


def embed(model: Any, ids: torch.Tensor, pixels: torch.Tensor | None, image_id: int) -> torch.Tensor:
    """Token embeddings (rows, length, width) with the projected image features in their places."""
    hidden = model.model.language_model.embed_tokens(ids)
    if pixels is None:
        return hidden
    with torch.no_grad():
        tower = model.model.vision_tower
        features = tower(pixels.to(tower.dtype)).last_hidden_state.flatten(2).transpose(1, 2)
    projected = model.model.multi_modal_projector(features.float()).to(hidden.dtype)
    return hidden.masked_scatter((ids == image_id)[..., None], projected)


def answer_loss(model: Any, encoder: Encoder, bank: PictureBank, rows: list[Row]) -> torch.Tensor:
    """Mean cross-entropy over the answer tokens of a batch of rows."""
    ids, labels, mask = encoder.batch(rows, bank.device)
    pictures = [picture for row in rows for picture in row.pictures]
    pixels = bank.pixels(pictures, augment=True) if pictures else None
    hidden = embed(model, ids, pixels, encoder.image_id)
    output = model.model.language_model(inputs_embeds=hidden, attention_mask=mask, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != -100
    logits = model.lm_head(output[:, :-1][wanted])
    return F.cross_entropy(logits.float(), labels[:, 1:][wanted])


def train(
    model: Any,
    encoder: Encoder,
    bank: PictureBank,
    draw: Callable[[], Row],
    parameters: list[nn.Parameter],
    *,
    batch: int,
    lr: float,
    steps: int,
    seconds: float,
    log: Path,
    save: Callable[[], None],
) -> dict[str, float]:
    """Train until ``steps`` or ``seconds`` are used up, whichever comes first; the rate falls as a cosine of the time used.

    Returns:
        Steps, samples, seconds and the mean loss of the last 50 steps.
    """
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    started, losses, done = time.monotonic(), [], 0
    with log.open("a", encoding="utf-8") as lines:
        while True:
            used = max(done / steps, (time.monotonic() - started) / seconds)
            if used >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (done + 1) / 50) * max(0.02, 0.5 * (1 + math.cos(math.pi * used)))
            loss = answer_loss(model, encoder, bank, [draw() for _ in range(batch)])
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            done += 1
            if done % 50 == 0:
                elapsed = time.monotonic() - started
                mean = float(torch.stack(losses[-50:]).mean())
                row = {"step": done, "loss": round(mean, 4), "samples_per_second": round(done * batch / elapsed, 1)}
                lines.write(json.dumps(row) + "\n")
                lines.flush()
                print(row, flush=True)  # noqa: T201 -- the loop is a command-line program's progress
            if done % 500 == 0:
                save()
    save()
    last = float(torch.stack(losses[-50:]).mean())
    return {"steps": done, "samples": done * batch, "seconds": round(time.monotonic() - started, 1), "loss": last}
