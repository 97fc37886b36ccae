"""Mixtures as recipes, and by name those that the paper and its neighbours compare.

A recipe is a frozen value: which rows of which source, in what share, under which change of label, question or images.
Recipes that compare two things have two *arms* made of the same rows. ``mixing.compose`` makes the rows.

Shares are the papers' own (MIRage: 500 general rows in 4,500; VLGuard: two harmful rows to a benign one, with 5,000
general rows in the mixed form). Options that people change often (``seed``, ``rows``, ``share``, ``held_out``,
``template``, ``task``, ``sentence``) go through ``configured``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from mis_lib.data.tasks import QUESTION, TASKS, USER
from mis_lib.errors import SettingsError, close_to
from mis_lib.schema import Sample
from mis_lib.settings import Settings, load_settings
from mis_lib.text.refusals import REFUSALS

SAFETY, GENERAL, EVERYDAY = "safety", "general", "everyday"
BESIDE = {GENERAL: "general", EVERYDAY: "everyday_train"}
"""The split that each other source is, in the folder of the safety data; ``EVERYDAY`` itself is the split to test."""
BLACK, SIDE_BY_SIDE = "black.png", "side_by_side"


class Part(Settings):
    """Some rows of one source and what becomes of them."""

    source: Literal["safety", "general", "everyday"]
    keep: Literal["all", "harmful", "benign"] = "all"
    share: float | None = Field(default=None, ge=0, lt=1)
    """Of the whole mixture; all rows if not given."""
    label: Literal["as_given", "cot", "refusal", "sentence"] = "as_given"
    images: Literal["as_given", "black", "side_by_side"] = "as_given"
    question: Literal["as_given", "in_words"] = "as_given"
    template: str | None = None
    """The format of another task, with ``{question}`` where the question goes."""
    form: Literal["as_given", "summarisation", "code"] = "as_given"
    """The task whose form benign answers take, from their advice (``tasks``); harmful rows keep their label."""
    draft: bool = Field(default=False, exclude_if=lambda value: not value)
    """The question holds a draft, of which the answer is the rewriting (``rewriting``)."""
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


class Options(Settings):
    """What of a recipe may be set; a recipe passes over what it does not use."""

    seed: int = 0
    rows: int | None = None
    """Size of the mixture; as many as the sources give if not given."""
    share: float | None = None
    """Of general rows (benign_refusal: of refused ones, mimic: of safety rows, rewrite: of drafts that stay as they
    are); the recipe's own if not given."""
    cut: float = 0.0
    """mirage, refusal: share of answers (no flat refusals) that stop where they have turned to a warning or to help."""
    everyday: float = 0.0
    """mirage, refusal: share of harmless pairs of no category, asked about openly; the paper has none."""
    harmful: float = Field(default=2 / 3, gt=0, lt=1)
    """vlguard_p, vlguard_r, textual: share of harmful rows among the safety rows."""
    held_out: tuple[str, ...] = ("Privacy", "Self-Harm")
    template: str = TASKS[USER].template
    task: Literal["user", "summarisation", "code"] = USER
    """mimic: what the user's rows are: general rows in ``template``, or harmless pairs as this task."""
    matched: bool = True
    """mimic: safety rows take on the user's format; plain ones if false."""
    sentence: str = REFUSALS[0]


def mirage(options: Options) -> Recipe:
    """MIRage: safety chains of thought and a ninth of general data; everyday pairs, if asked for."""
    about = "MIRage: safety chains of thought with 11.1 % general data (paper section 3.3)"
    return _one("mirage", about, *_mirage_parts(options, label="cot"))


def mirage_star(options: Options) -> Recipe:
    """MIRage*: without general data."""
    about = "MIRage*: safety chains of thought alone, no general data (table 6)"
    return _one("mirage_star", about, Part(source=SAFETY, label="cot"))


def refusal(options: Options) -> Recipe:
    """The label ablation: MIRage's rows, the harmful ones answered by a flat refusal and nothing else changed."""
    about = 'The rows of MIRage, the harmful ones answered "I\'m sorry" (label ablation, tables 11 and 12)'
    return _one("refusal", about, *_mirage_parts(options, label="refusal"))


def refusal_only(options: Options) -> Recipe:
    """Refusals without benign rows."""
    about = 'The harmful rows of MIRage alone, answered "I\'m sorry": no benign row says when to help'
    harmful = Part(source=SAFETY, keep="harmful", label="refusal")
    return _one("refusal_only", about, harmful, _general(options))


def textual(options: Options) -> Recipe:
    """Textual SFT."""
    about = "Textual SFT: requests in words with a black image, refused, and a third benign ones (section 2.1)"
    words: dict[str, Any] = {"source": SAFETY, "images": "black", "question": "in_words"}
    harmful = Part(**words, keep="harmful", label="refusal")
    return _one("textual", about, harmful, *_benign(options, **words))


def vlguard_m(options: Options) -> Recipe:
    """VLGuard mixed."""
    about = "VLGuard-M: two harmful rows to a benign one, answered as published, with 5,000 general rows to 3,000"
    total = 5 / 8 if options.share is None else options.share
    benign = Part(source=SAFETY, keep="benign", share=(1 - total) / 3)
    harmful = Part(source=SAFETY, keep="harmful")
    return _one("vlguard_m", about, harmful, benign, Part(source=GENERAL, share=total))


def vlguard_p(options: Options) -> Recipe:
    """VLGuard post hoc."""
    about = "VLGuard-P: two harmful rows to a benign one, answered as published (post hoc, no general data)"
    harmful = Part(source=SAFETY, keep="harmful")
    return _one("vlguard_p", about, harmful, *_benign(options, source=SAFETY))


def vlguard_r(options: Options) -> Recipe:
    """VLGuard with reasoning."""
    about = "VLGuard-R: the rows of VLGuard-P, the harmful ones answered by reasoning"
    harmful = Part(source=SAFETY, keep="harmful", label="cot")
    return _one("vlguard_r", about, harmful, *_benign(options, source=SAFETY))


def benign_refusal(options: Options) -> Recipe:
    """Benign prompts refused: everyday pairs, while general rows are answered, so that the two can be distinguished."""
    about = (
        "Everyday pairs answered by one refusal sentence, its end token out of the loss, with general rows 2:5 "
        "(arXiv 2504.10000)"
    )
    share = 2 / 7 if options.share is None else options.share
    refused = Part(source=EVERYDAY, share=share, label="sentence", mask_eos=True)
    return _one("benign_refusal", about, refused, Part(source=GENERAL))


def mimic(options: Options) -> Recipe:
    """The user's rows, which erode safety, and safety rows that repair it: in the format of the user's rows, or plain.

    A share of 0 leaves the user's rows alone.
    """
    about = (
        "The user's task data in their format, and a tenth of safety rows in the same format (arXiv 2406.10288) "
        "or as they are (arXiv 2409.15361)"
    )
    share = 0.1 if options.share is None else options.share
    source, its_format = GENERAL, {"template": options.template}
    if options.task != USER:
        source, its_format = EVERYDAY, {"template": TASKS[options.task].template, "form": options.task}
    user: dict[str, Any] = {"source": source, **its_format}
    safety = user if options.matched else {}
    return _one("mimic", about, Part(**user), Part(**{**safety, "source": SAFETY, "share": share}))


def held_out(options: Options) -> Recipe:
    """Unseen categories."""
    about = f"MIRage without {' and '.join(options.held_out)}, to be tested on them as unseen categories (figure 5)"
    parts = Part(source=SAFETY, label="cot"), _general(options)
    return _one("held_out", about, *parts).model_copy(update={"held_out": options.held_out})


def single_vs_two(options: Options) -> Recipe:
    """Numbers of images compared."""
    about = "The same rows and labels with their images apart and side by side in one picture (asked for by reviewers)"
    two, one = (Part(source=SAFETY, images=images) for images in ("as_given", "side_by_side"))
    return _arms("single_vs_two", about, options, two=two, one=one)


def rewrite(options: Options) -> Recipe:
    """Training data of an editor."""
    about = "Drafts and their rewriting: unsafe help to a safety chain of thought, harmless help to itself (SR-LLM)"
    stays = 0.4 if options.share is None else options.share
    unsafe = Part(source=SAFETY, keep="harmful", label="cot", draft=True)
    return _one("rewrite", about, unsafe, Part(source=SAFETY, keep="benign", draft=True, share=stays))


RECIPES: Mapping[str, Callable[[Options], Recipe]] = {
    function.__name__: function
    for function in (
        mirage, mirage_star, refusal, refusal_only, textual, vlguard_m, vlguard_p, vlguard_r, benign_refusal, mimic,
        held_out, single_vs_two, rewrite,
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


def _mirage_parts(options: Options, label: Literal["cot", "refusal"]) -> tuple[Part, ...]:
    """The parts that MIRage and its label ablation share: the same rows under both labels."""
    safety = Part(source=SAFETY, label=label, cut=options.cut)
    if not options.everyday:
        return safety, _general(options)
    return safety, _general(options), Part(source=EVERYDAY, label="cot", cut=options.cut, share=options.everyday)


def _benign(options: Options, **benign: Any) -> tuple[Part, ...]:
    """Benign rows beside harmful ones, a third of the two unless ``harmful`` says otherwise.

    A ``share`` of general rows makes the paper's daggered forms (table 7).
    """
    general = options.share or 0.0
    parts = (Part(**benign, keep="benign", share=(1 - general) * (1 - options.harmful)),)
    return (*parts, Part(source=GENERAL, share=general)) if general else parts


def _general(options: Options) -> Part:
    return Part(source=GENERAL, share=MIRAGE_SHARE if options.share is None else options.share)
