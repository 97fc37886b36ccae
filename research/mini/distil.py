"""Helpful answers distilled from the language model itself.

Asked in text about named things, answered later about pictures of them.

The answers keep the language model's own voice, so training on them teaches it to look, not to speak differently.
"""

import random
import re
from typing import Any

import torch

from mis_lib.construct.labels import with_article
from research.mini.curriculum import ABOUT_ONE, ABOUT_ONE_TEXT, ABOUT_TWO, CHAT

SYSTEM = "You are a helpful assistant. Answer briefly in at most four sentences."
LONGEST = 420  # characters; a longer answer is cut after its last whole sentence
REFUSALS = re.compile(r"\b(sorry|can't|cannot|unable to|as an ai|not able to)\b", re.IGNORECASE)


def questions(names: list[str], *, pairs: int, uses: int, chats: int, seed: int) -> list[tuple[list[str], str, str]]:
    """Draw (names of the pictures, question about the pictures, the same question in text) by lot."""
    dice = random.Random(seed)
    asked: list[tuple[list[str], str, str]] = []
    for _ in range(pairs):
        first, second = dice.choice(names), dice.choice(names)
        shown, text = dice.choice(ABOUT_TWO)
        asked.append(([first, second], shown, text.format(a=with_article(first), b=with_article(second))))
    for name in dice.sample(names, min(uses, len(names))):
        shown, text = dice.choice(list(zip(ABOUT_ONE, ABOUT_ONE_TEXT, strict=True)))
        asked.append(([name], shown, text.format(a=with_article(name))))
    for _ in range(chats):
        text = dice.choice(CHAT).format(a=with_article(dice.choice(names)), b=with_article(dice.choice(names)))
        asked.append(([], text, text))
    return asked


@torch.no_grad()
def answer(
    model: Any, tokenizer: Any, asked: list[tuple[list[str], str, str]], *, batch: int = 384, max_new_tokens: int = 110
) -> list[tuple[list[str], str, str]]:
    """Let the language model answer in text; returns (names, question about the pictures, answer) without refusals."""
    tokenizer.padding_side = "left"
    rows = []
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        prompts = [
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
            for _, _, text in part
        ]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, repetition_penalty=1.12)
        texts = tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        rows += [(names, shown, cut(text)) for (names, shown, _), text in zip(part, texts, strict=True)]
    return [row for row in rows if row[2] and not REFUSALS.search(row[2]) and not repeats(row[2])]


def repeats(text: str) -> bool:
    """Whether a run of four words occurs twice: a small model that has lost the thread goes round in circles."""
    words = text.lower().split()
    runs = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
    return len(set(runs)) < len(runs)


def cut(text: str) -> str:
    """At most ``LONGEST`` characters, ending with a whole sentence (a list's number is none), or none."""
    text = re.sub(r"\s+", " ", text).strip()
    ends = [match.end() for match in re.finditer(r"(?<!\b\d)[.!?](?= |$)", text[:LONGEST])]
    return text[: ends[-1]] if ends else ""
