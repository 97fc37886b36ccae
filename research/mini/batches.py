"""Rows to batches: encoded in worker processes, grouped by length so that little is padding.

Rows differ in length several times over (from one short question to six images), so a batch of rows as they come is
mostly padding. Each worker draws a pool of rows, sorts it by length, cuts it into batches of at most ``tokens`` tokens,
and hands them out in random order.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mis_lib.models.mini.tower import SIDE
from mis_lib.prompts import to_messages
from research.mini.curriculum import Row
from research.mini.pictures import Picture

IMAGE_TOKENS = SIDE * SIDE
POOL = 1536


class Batch(NamedTuple):
    """Right-padded ``ids`` and ``labels`` (-100 outside the answer), each (rows, length), and the pictures in order."""

    ids: torch.Tensor
    labels: torch.Tensor
    pictures: list[Picture]


class Encoded(NamedTuple):
    """A row in tokens."""

    row: Row
    prompt: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


class Encoder:
    """Turns rows into token ids with the chat template that generation uses.

    An image's placeholder is repeated for each of its tokens.
    """

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

    def row(self, row: Row) -> Encoded:
        """Token ids of the prompt and of the answer."""
        answer = self.tokenizer(row.answer + "<|im_end|>", add_special_tokens=False).input_ids
        return Encoded(row, self.prompt(len(row.pictures), row.question), answer)

    def batch(self, rows: list[Encoded]) -> Batch:
        """Pad encoded rows to the longest, rounded up to a multiple of 16."""
        length = -(-max(map(len, rows)) // 16) * 16
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), length), -100)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row.prompt + row.answer)
            labels[index, len(row.prompt) : len(row)] = torch.tensor(row.answer)
        return Batch(ids, labels, [picture for row in rows for picture in row.row.pictures])


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
