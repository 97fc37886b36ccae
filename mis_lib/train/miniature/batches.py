"""Rows to batches: encoded in worker processes, grouped by length so that little is padding.

Rows differ in length by a factor of four (one image: 49 tokens; six: 330), so a batch of rows as they come is mostly padding. Each worker draws
a pool of rows, sorts it by length, cuts it into batches of at most ``tokens`` tokens, and hands them out in random order.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mis_lib.prompts import to_messages
from mis_lib.train.miniature.curriculum import Row
from mis_lib.train.miniature.pictures import Picture

IMAGE_TOKENS = 49
POOL = 1536


class Batch(NamedTuple):
    """Right-padded ``ids``, ``labels`` (-100 outside the answer) and ``positions``, each (rows, length), and the pictures in order.

    ``patches`` (pictures, kept) tells which of a picture's 49 features its placeholders stand for.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    pictures: list[Picture]
    patches: torch.Tensor


class Encoded(NamedTuple):
    """A row in tokens, with the position of each token in the whole sequence and the patches kept of each picture."""

    row: Row
    prompt: list[int]
    answer: list[int]
    positions: list[int]
    patches: list[list[int]]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


class Encoder:
    """Turns rows into token ids with the chat template that generation uses; an image's placeholder is repeated 49 times.

    With ``keep`` below 49 a training row keeps that many patches of each picture, drawn by lot, at the positions they have in the whole
    picture: two thirds of a row's tokens are patches, and a picture is known from half of them (FLIP, Li et al. 2022). Prompts for
    answering always hold all of them.
    """

    def __init__(self, processor: Any, keep: int = IMAGE_TOKENS, seed: int = 0) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.image_id = self.tokenizer.convert_tokens_to_ids(processor.image_token)
        self.keep, self.dice = keep, random.Random(seed)
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

    def row(self, row: Row) -> Encoded:
        """Token ids of the prompt, with what of the answer is given, and of the answer."""
        given = self.tokenizer(row.given, add_special_tokens=False).input_ids if row.given else []
        answer = self.tokenizer(row.answer + "<|im_end|>", add_special_tokens=False).input_ids[: row.opening or None]
        prompt = [*self.prompt(len(row.pictures), row.question), *given]
        patches = [sorted(self.dice.sample(range(IMAGE_TOKENS), self.keep)) for _ in row.pictures]
        places = [at for at, token in enumerate(prompt) if token == self.image_id]
        gone = set(places) - {
            places[IMAGE_TOKENS * picture + patch] for picture, kept in enumerate(patches) for patch in kept
        }
        positions = [at for at in range(len(prompt) + len(answer)) if at not in gone]
        return Encoded(row, [prompt[at] for at in positions if at < len(prompt)], answer, positions, patches)

    def batch(self, rows: list[Encoded]) -> Batch:
        """Pad encoded rows to the longest, rounded up to a multiple of 16."""
        length = -(-max(map(len, rows)) // 16) * 16
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), length), -100)
        positions = torch.zeros((len(rows), length), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row.prompt + row.answer)
            labels[index, len(row.prompt) : len(row)] = torch.tensor(row.answer)
            positions[index, : len(row)] = torch.tensor(row.positions)
        pictures = [picture for row in rows for picture in row.row.pictures]
        patches = torch.tensor([kept for row in rows for kept in row.patches], dtype=torch.long)
        return Batch(ids, labels, positions, pictures, patches)


class Batches(IterableDataset[Batch]):
    """An endless stream of batches; ``make_draw(seed)`` returns the function that draws one row."""

    def __init__(self, make_draw: Callable[[int], Callable[[], Row]], encoder: Encoder, tokens: int, seed: int) -> None:
        self.make_draw, self.encoder, self.tokens, self.seed = make_draw, encoder, tokens, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        seed = self.seed * 1000 + (worker.id if worker else 0)
        draw, dice = self.make_draw(seed), random.Random(seed)
        while True:
            pool = sorted((self.encoder.row(draw()) for _ in range(POOL)), key=len)
            batches = list(self._cut(pool))
            dice.shuffle(batches)
            for rows in batches:
                yield self.encoder.batch(rows)

    def _cut(self, pool: list[Encoded]) -> Iterator[list[Encoded]]:
        part: list[Encoded] = []
        for item in pool:
            if part and (len(part) + 1) * len(item) > self.tokens:
                yield part
                part = []
            part.append(item)
        if part:
            yield part


def loader(batches: Batches, workers: int) -> Iterator[Batch]:
    """Iterate over batches made by ``workers`` processes (0: in this one)."""
    options: dict[str, Any] = {"prefetch_factor": 4, "multiprocessing_context": "fork"} if workers else {}
    return iter(DataLoader(batches, batch_size=None, num_workers=workers, **options))
