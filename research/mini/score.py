"""Scores taken on the training machine, right after a stage: what is named.

They tell whether a run was worth it. The figures that the README shows come from ``mis report``, on the files of
MIS-Mini and through the app's own engine.
"""

import random
from typing import Any

import torch

from mis_lib.construct.drawings import is_distinct
from research.mini.batches import Encoder
from research.mini.loop import Bank, embed
from research.mini.pictures import Picture


@torch.no_grad()
def say(
    model: Any,
    encoder: Encoder,
    bank: Bank,
    asked: list[tuple[list[Picture], str]],
    *,
    tokens: int,
    augment: bool = False,
) -> list[str]:
    """Greedy answers to (pictures, question), in batches of 128."""
    answers: list[str] = []
    pad, end = encoder.tokenizer.pad_token_id, encoder.tokenizer.eos_token_id
    for start in range(0, len(asked), 128):
        part = asked[start : start + 128]
        prompts = [encoder.prompt(len(pictures), question) for pictures, question in part]
        length = max(map(len, prompts))
        ids = torch.full((len(part), length), pad)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            mask[row, length - len(prompt) :] = 1
        ids, mask = ids.to(bank.device), mask.to(bank.device)
        pictures = [picture for pictures, _ in part for picture in pictures]
        hidden = embed(model, ids, bank.features(pictures, augment=augment) if pictures else None, encoder.image_id)
        output = model.generate(
            inputs_embeds=hidden,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=end,
        )
        answers += encoder.tokenizer.batch_decode(output, skip_special_tokens=True)
    return answers


def naming(
    model: Any,
    encoder: Encoder,
    bank: Bank,
    drawn: list[str],
    held_out: list[tuple[str, int, str]],
    limit: int | None = None,
) -> dict[str, float]:
    """Share of pictures whose exact name is in the answer.

    Per style, of pairs (both names), of held-out cut-out photographs.
    """
    scores = {}
    for style in ("openmoji", "twemoji", "noto"):
        shown = [(index, name) for index, name in enumerate(drawn) if is_distinct(name, style)][:limit]
        asked = [([Picture("drawn", index, style)], "What is in the image?") for index, _ in shown]
        answers = say(model, encoder, bank, asked, tokens=24)
        named = [name.lower() in text.lower() for (_, name), text in zip(shown, answers, strict=True)]
        scores[style] = sum(named) / len(named)
    dice = random.Random(1)
    pairs = [(dice.randrange(len(drawn)), dice.randrange(len(drawn))) for _ in range(400)][:limit]
    asked = [
        ([Picture("drawn", a, "twemoji"), Picture("drawn", b, "openmoji")], "Describe the two images.")
        for a, b in pairs
    ]
    answers = say(model, encoder, bank, asked, tokens=48)
    both = [
        drawn[a].lower() in text.lower() and drawn[b].lower() in text.lower()
        for (a, b), text in zip(pairs, answers, strict=True)
    ]
    scores["pairs"] = sum(both) / len(pairs)
    asked = [([Picture(kind, index)], "What is in the image?") for kind, index, _ in held_out]
    answers = say(model, encoder, bank, asked, tokens=24)
    scores["cutouts"] = sum(
        name.lower() in text.lower() for (_, _, name), text in zip(held_out, answers, strict=True)
    ) / max(1, len(held_out))
    print([(name, text) for (_, _, name), text in zip(held_out, answers, strict=True)], flush=True)
    return {name: round(value, 4) for name, value in scores.items()}
