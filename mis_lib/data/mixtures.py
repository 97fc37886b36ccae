"""Mixtures as recipes, and by name those that the paper and its neighbours compare.

A recipe is a frozen value: which rows of which source, in what share, under which change of label, question or images.
Recipes that compare two things have two *arms* made of the same rows. ``mixing.compose`` makes the rows.

Shares are the papers' own (MIRage: 500 general rows in 4,500; VLGuard: two harmful rows to a benign one, with 5,000
general rows in the mixed form). Options that people change often (``seed``, ``rows``, ``share``, ``held_out``,
``template``, ``sentence``) go through ``configured``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from mis_lib.errors import SettingsError, close_to
from mis_lib.schema import Sample
from mis_lib.settings import Settings, load_settings
from mis_lib.text.refusals import REFUSALS

QUESTION = "{question}"
SAFETY, GENERAL, EVERYDAY = "safety", "general", "everyday"
BESIDE = {GENERAL: "general", EVERYDAY: "everyday_train"}
"""The split that each other source is, in the folder of the safety data; ``EVERYDAY`` itself is the split to test."""
BLACK, SIDE_BY_SIDE = "black.png", "side_by_side"


class Part(Settings):
    """Some rows of one source and what becomes of them."""

    source: Literal["safety", "general", "everyday"]
    keep: Literal["all", "harmful", "benign"] = "all"
    share: float | None = Field(default=None, ge=0, lt=1)
    """Of the whole mixture; without it all rows, or those that ``fraction`` left."""
    fraction: float | None = Field(default=None, gt=0, lt=1)
    """Of the rows of the source."""
    label: Literal["as_given", "cot", "refusal", "sentence"] = "as_given"
    images: Literal["as_given", "black", "side_by_side"] = "as_given"
    question: Literal["as_given", "in_words"] = "as_given"
    template: str | None = None
    """The format of another task, with ``{question}`` where the question goes."""
    mask_eos: bool = False
    """Leave the answer's end token out of the loss."""
    cut: float = Field(default=0.0, ge=0, le=1)
    """Share of rows whose answer stops, without an end, after the first sentence that follows its perception.

    They teach whether to warn or to help, at half the tokens.
    """

    @model_validator(mode="after")
    def _has_a_place_for_the_question(self) -> Self:
        if self.template is not None and QUESTION not in self.template:
            raise ValueError(f"template: expected {QUESTION} in it, found {self.template!r}")
        return self


class Arm(Settings):
    """One training set of a recipe."""

    name: str
    parts: tuple[Part, ...] = Field(min_length=1)


class Recipe(Settings):
    """A named mixture."""

    name: str
    about: str
    arms: tuple[Arm, ...] = Field(min_length=1)
    seed: int = 0
    rows: int | None = Field(default=None, ge=1)
    """Size of each arm; without it as many as the sources give."""
    held_out: tuple[str, ...] = ()
    """Categories whose safety rows are left out, to be tested as unseen ones."""
    sentence: str = REFUSALS[0]
    """The answer under the label "sentence"."""


class SampleSet(NamedTuple):
    """Samples and the folder of their images."""

    samples: Sequence[Sample]
    folder: Path


class MixedRow(NamedTuple):
    """A row of a mixture: the changed sample, its part and source, and where its images come from."""

    sample: Sample
    part: Part
    folder: Path
    pictures: tuple[str, ...]
    """Images as the source names them; empty for black ones."""


Arms = Mapping[str, list[MixedRow]]
MIRAGE_SHARE = 1 / 9
USER_FORMAT = f"Read the request and write the reply.\n\nRequest: {QUESTION}\nReply:"


class Options(Settings):
    """What of a recipe may be set; a recipe passes over what it does not use."""

    seed: int = 0
    rows: int | None = None
    """Size of the mixture; as many as the sources give if not given."""
    share: float | None = None
    """Of general rows (benign_refusal: of refused ones, mimic: of safety rows); the recipe's own if not given."""
    cut: float = 0.0
    """mirage: share of safety rows that stop where the answer has turned to a warning or to help."""
    everyday: float = 0.0
    """mirage: share of harmless pairs of no category, asked about openly; the paper has none."""
    held_out: tuple[str, ...] = ("Privacy", "Self-Harm")
    template: str = USER_FORMAT
    sentence: str = REFUSALS[0]


def mirage(options: Options) -> Recipe:
    """MIRage: safety chains of thought and a ninth of general data; everyday pairs, if asked for."""
    about = "MIRage: safety chains of thought with 11.1 % general data (paper section 3.3)"
    parts = [Part(source=SAFETY, label="cot", cut=options.cut), _general(options)]
    if options.everyday:
        parts.append(Part(source=EVERYDAY, label="cot", cut=options.cut, share=options.everyday))
    return _one("mirage", about, *parts)


def mirage_star(options: Options) -> Recipe:
    """MIRage*: without general data."""
    about = "MIRage*: safety chains of thought alone, no general data (table 6)"
    return _one("mirage_star", about, Part(source=SAFETY, label="cot"))


def refusal(options: Options) -> Recipe:
    """The label ablation."""
    about = 'The harmful rows of MIRage answered "I\'m sorry" (label ablation, tables 11 and 12)'
    harmful = Part(source=SAFETY, keep="harmful", label="refusal")
    return _one("refusal", about, harmful, _general(options))


def textual(options: Options) -> Recipe:
    """Textual SFT."""
    about = "Textual SFT: requests in words with black images, refused, and a third benign ones (section 2.1)"
    words: dict[str, Any] = {"source": SAFETY, "images": "black", "question": "in_words"}
    harmful = Part(**words, keep="harmful", label="refusal")
    return _one("textual", about, harmful, *_third_benign(options, **words))


def vlguard_m(options: Options) -> Recipe:
    """VLGuard mixed."""
    about = "VLGuard-M: two harmful rows, refused, to a benign one, mixed with 5,000 general rows to 3,000"
    total = 5 / 8 if options.share is None else options.share
    benign = Part(source=SAFETY, keep="benign", share=(1 - total) / 3)
    harmful = Part(source=SAFETY, keep="harmful", label="refusal")
    return _one("vlguard_m", about, harmful, benign, Part(source=GENERAL, share=total))


def vlguard_p(options: Options) -> Recipe:
    """VLGuard post hoc."""
    about = "VLGuard-P: two harmful rows, refused, to a benign one (post hoc, no general data)"
    harmful = Part(source=SAFETY, keep="harmful", label="refusal")
    return _one("vlguard_p", about, harmful, *_third_benign(options, source=SAFETY))


def vlguard_r(options: Options) -> Recipe:
    """VLGuard with reasoning."""
    about = "VLGuard-R: the rows of VLGuard-P, the harmful ones answered by reasoning"
    harmful = Part(source=SAFETY, keep="harmful", label="cot")
    return _one("vlguard_r", about, harmful, *_third_benign(options, source=SAFETY))


def benign_refusal(options: Options) -> Recipe:
    """Benign prompts refused."""
    about = (
        "Benign prompts answered by one refusal sentence, its end token out of the loss, with ordinary rows 2:5 "
        "(arXiv 2504.10000)"
    )
    fraction = 2 / 7 if options.share is None else options.share
    refused = Part(source=GENERAL, fraction=fraction, label="sentence", mask_eos=True)
    return _one("benign_refusal", about, refused, Part(source=GENERAL))


def mimic(options: Options) -> Recipe:
    """Safety rows in the user's format."""
    about = "The user's task data with a tenth of safety rows in its own format (arXiv 2406.10288)"
    share = 0.1 if options.share is None else options.share
    return _one("mimic", about, Part(source=GENERAL), Part(source=SAFETY, share=share, template=options.template))


def held_out(options: Options) -> Recipe:
    """Unseen categories."""
    about = f"MIRage without {' and '.join(options.held_out)}, to be tested on them as unseen categories (figure 5)"
    parts = Part(source=SAFETY, label="cot"), _general(options)
    return _one("held_out", about, *parts).model_copy(update={"held_out": options.held_out})


def cot_vs_direct(options: Options) -> Recipe:
    """Labels compared."""
    about = "The same rows labelled by reasoning and by direct refusal (asked for by reviewers)"
    return _arms(
        "cot_vs_direct",
        about,
        options,
        cot=Part(source=SAFETY, label="cot"),
        direct=Part(source=SAFETY, label="refusal"),
    )


def single_vs_two(options: Options) -> Recipe:
    """Numbers of images compared."""
    about = "The same rows and labels with their images apart and side by side in one picture (asked for by reviewers)"
    two, one = (Part(source=SAFETY, images=images) for images in ("as_given", "side_by_side"))
    return _arms("single_vs_two", about, options, two=two, one=one)


RECIPES: Mapping[str, Callable[[Options], Recipe]] = {
    function.__name__: function
    for function in (
        mirage, mirage_star, refusal, textual, vlguard_m, vlguard_p, vlguard_r, benign_refusal, mimic, held_out,
        cot_vs_direct, single_vs_two,
    )
}  # fmt: skip


def configured(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name, with ``key=value`` options.

    Raises:
        SettingsError: there is no such recipe or option, or a value does not fit.
    """
    if name not in RECIPES:
        raise SettingsError(f"--mixture: unknown {name!r}{close_to(name, RECIPES)}; known: {', '.join(RECIPES)}")
    options = load_settings(Options, overrides=overrides)
    recipe = RECIPES[name](options)
    return Recipe(**{**recipe.model_dump(), "seed": options.seed, "rows": options.rows, "sentence": options.sentence})


def _one(name: str, about: str, *parts: Part) -> Recipe:
    arm = Arm(name="train", parts=parts)
    return Recipe(name=name, about=about, arms=(arm,))


def _arms(name: str, about: str, options: Options, **parts: Part) -> Recipe:
    """A recipe that compares safety parts, each with the same general rows."""
    arms = tuple(Arm(name=arm, parts=(part, _general(options))) for arm, part in parts.items())
    return Recipe(name=name, about=about, arms=arms)


def _third_benign(options: Options, **benign: Any) -> tuple[Part, ...]:
    """One benign row to two harmful ones; a ``share`` of general rows makes the paper's daggered forms (table 7)."""
    general = options.share or 0.0
    parts = (Part(**benign, keep="benign", share=(1 - general) / 3),)
    return (*parts, Part(source=GENERAL, share=general)) if general else parts


def _general(options: Options) -> Part:
    return Part(source=GENERAL, share=MIRAGE_SHARE if options.share is None else options.share)
