"""Examples: the items of a data set folder, found by category, split and words, each with its twin.

A card of the list is a *pair*, the harmful item with its benign twin, since one without the other tells half the story;
or an everyday item, which has no twin. An item's known truth holds only while its images, their order and its question
are unchanged; ``match`` decides that.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mis_lib.data.images import inside
from mis_lib.data.mixtures import EVERYDAY
from mis_lib.errors import DataError
from mis_lib.files import read_records
from mis_lib.schema import Sample, Split
from workbench.prompt import Prompt, card_thumbnail, read_image

OWN_PROMPT = "your own prompt: whether it is harmful is not known"  # also while no example is there yet
# training items are no examples: the tuned model has seen them
TEST_SPLITS = (Split.EASY, Split.HARD, Split.UNSEEN, Split.REAL, EVERYDAY)


@dataclass(frozen=True)
class Card:
    """One line of the example list, ready to draw: thumbnails of the harmful item and the ids to load."""

    sample: Sample
    twin: Sample | None
    thumbnails: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """The cards from the start of the list, and how many there are in all."""

    cards: tuple[Card, ...]
    total: int


@dataclass(frozen=True)
class Catalogue:
    """The samples of one data set folder."""

    folder: Path
    samples: tuple[Sample, ...]

    @classmethod
    def read(cls, folder: Path) -> "Catalogue":
        """Read the test splits of a data set folder: those of easy, hard, real and everyday ``.jsonl`` that exist.

        Raises:
            DataError: the folder has none of them, a line is not a sample, or an image's name leads out of the folder.
        """
        paths = [folder / f"{split}.jsonl" for split in TEST_SPLITS]
        found = [path for path in paths if path.is_file()]
        if not found:
            raise DataError(f"{folder}: expected {', '.join(path.name for path in paths)}, found none of them")
        samples = tuple(sample for path in found for sample in read_records(path, Sample))
        for sample in samples:
            for name in sample.images:
                inside(folder, name)
        return cls(folder, samples)

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        """The samples by id."""
        return {sample.id: sample for sample in self.samples}

    @cached_property
    def categories(self) -> list[str]:
        """The categories in alphabetical order."""
        return sorted({sample.category for sample in self.samples if sample.category})

    @cached_property
    def splits(self) -> list[str]:
        """The splits in the order of the paper, everyday pairs last."""
        return [split for split in TEST_SPLITS if any(sample.split == split for sample in self.samples)]

    def twin(self, sample: Sample) -> Sample | None:
        """The counterpart with the opposite truth."""
        return self.by_id.get(sample.twin_id) if sample.twin_id else None

    def page(self, *, category: str = "", split: str = "", words: str = "", limit: int = 24) -> Page:
        """The first ``limit`` pairs that match; an empty filter matches everything."""
        found = [sample for sample in self._heads if self._matches(sample, category, split, words)]
        return Page(tuple(self._card(sample) for sample in found[:limit]), len(found))

    def ids(self, *, category: str = "", split: str = "", words: str = "") -> list[str]:
        """Ids of all pairs that match, by their harmful item."""
        return [sample.id for sample in self._heads if self._matches(sample, category, split, words)]

    def load(self, sample_id: str) -> tuple[Prompt, Sample]:
        """The prompt of an example.

        Raises:
            DataError: there is no such example.
            ImageError: one of its images cannot be read.
        """
        sample = self.by_id.get(sample_id)
        if sample is None:
            raise DataError(f"there is no example {sample_id!r} in {self.folder.name}; reload the page")
        images = tuple(
            read_image(path, name=name, flagged=sample.harmful)
            for path, name in zip(self.paths(sample), self._names(sample), strict=True)
        )
        return Prompt(images, sample.id), sample

    def example(self, prompt: Prompt) -> Sample | None:
        """The example whose images a prompt still has, all of them and in their order."""
        sample = self.by_id.get(prompt.example_id or "")
        return sample if sample and [image.path for image in prompt.images] == self.paths(sample) else None

    def match(self, prompt: Prompt, question: str) -> tuple[Sample | None, str]:
        """The example that a prompt still is, or None with the reason why no truth is known for it."""
        if (prompt.example_id or "") not in self.by_id:
            return None, OWN_PROMPT
        sample = self.example(prompt)
        if sample is None:
            return None, "the example's images were changed, so its known truth no longer applies"
        if question.strip() != sample.question.strip():
            return None, "the example's question was changed, so its known truth no longer applies"
        return sample, ""

    def paths(self, sample: Sample) -> list[Path]:
        """Where the sample's images lie."""
        return [self.folder / name for name in sample.images]

    @cached_property
    def _heads(self) -> list[Sample]:
        """One sample a pair: harmful ones, and benign ones without a harmful twin."""
        return [
            sample
            for sample in self.samples
            if sample.harmful or not ((twin := self.twin(sample)) is not None and twin.harmful)
        ]

    @staticmethod
    def _matches(sample: Sample, category: str, split: str, words: str) -> bool:
        text = " ".join([sample.question, sample.sub_category or "", sample.id, *(sample.objects or [])]).lower()
        return (
            (not category or sample.category == category)
            and (not split or sample.split == split)
            and all(word in text for word in words.lower().split())
        )

    def _card(self, sample: Sample) -> Card:
        return Card(sample, self.twin(sample), tuple(card_thumbnail(path) for path in self.paths(sample)))

    @staticmethod
    def _names(sample: Sample) -> list[str]:
        return sample.objects if sample.objects and len(sample.objects) == len(sample.images) else sample.images
