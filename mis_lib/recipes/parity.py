"""``mis parity``: do an adapter in training, merged, reloaded, in the app's engine and served answer the same?

One variant's forms are compared one after the other, so that no more than two models are in memory at a time.
Everything that was compared is kept (``--out``); the exit status says whether anything differs.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from mis_lib.errors import SettingsError
from mis_lib.files import check_writable, load_image, write_atomic
from mis_lib.probe.parity import TOLERANCE, Check, CheckResult, Status, View, first_difference
from mis_lib.recipes.checkpoints import local_checkpoint
from mis_lib.recipes.progress import say
from mis_lib.recipes.samples import mini_data, read_place
from mis_lib.schema import Record, Sample, Split
from mis_lib.settings import GenerationSettings, Quantization, Settings

if TYPE_CHECKING:
    from mis_lib.models.load import LoadedModel
    from mis_lib.probe.lora_tensors import TensorUse
    from mis_lib.probe.parity import Question


class Form(StrEnum):
    """A form of a tuned model (``probe.parity``)."""

    TRAINING = "training"
    ROWS = "rows"
    MERGED = "merged"
    RELOADED = "reloaded"
    ENGINE = "engine"
    SERVED = "served"


WHOLE = (Form.MERGED, Form.RELOADED, Form.SERVED)
"""Forms of weights that an adapter was added to, which are not quantized."""
LOCAL = (Form.TRAINING, Form.ROWS, Form.MERGED, Form.RELOADED, Form.ENGINE)


class ParitySettings(Settings):
    """What is compared with what, on which questions."""

    variants: tuple[str, ...] | None = None
    """Which adapters (default: all that are named, or all shipped ones)."""
    forms: tuple[Form, ...] = LOCAL
    """training rows merged reloaded engine served (default: all but served; training rows engine if quantized)."""
    checkpoint: Path | None = None
    """Checkpoint folder or hub id (default: the embedded model)."""
    adapters: dict[str, Path] | None = None
    """NAME=FOLDER of each PEFT adapter (default: the shipped ones)."""
    merged: Path | None = None
    """A checkpoint that was merged elsewhere, taken as the form "reloaded"; for one adapter."""
    served: str | None = None
    """URL or URL#MODEL of a running server; adds the form served (default server: transformers' on merged weights)."""
    images: tuple[Path, ...] = ()
    """Ask the question about these images, instead of items of the data."""
    question: str | None = None
    """What to ask about the images."""
    data: Path | None = None
    """Folder of data files, or one of them, whose first items are asked (default: MIS-Mini)."""
    split: str = Split.HARD
    """Split of a data folder."""
    limit: int = Field(default=2, ge=1)
    """So many items."""
    max_new_tokens: int = Field(default=24, ge=1)
    """Longest answer, in tokens."""
    device: str = "auto"
    """auto (a CUDA GPU if there is one, else the CPU), cpu, cuda, cuda:1, mps."""
    dtype: str = "float32"
    """float32 proves the arithmetic; bfloat16, float16 show what their rounding does."""
    quantization: Quantization | None = None
    """nf4 or int8: linear layers' weights, as in generate; the tolerance stays that of dtype."""
    out: Path | None = None
    """JSON file to keep everything that was compared."""

    @model_validator(mode="before")
    @classmethod
    def _with_served(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("served") and not values.get("forms"):
            return {**values, "forms": (*LOCAL, Form.SERVED)}
        if values.get("quantization") and not values.get("forms"):
            return {**values, "forms": tuple(form for form in LOCAL if form not in WHOLE)}
        return values

    @model_validator(mode="after")
    def _merged_weights_are_whole(self) -> Self:
        if self.quantization and (self.merged or set(self.forms) & set(WHOLE)):
            raise ValueError(
                "quantization: an adapter is merged into weights that are not quantized, and they answer otherwise; "
                "expected the forms training, rows and engine, found merged, reloaded or served ones"
            )
        return self


class Proof:
    """The comparison of one variant, form after form."""

    def __init__(
        self,
        settings: ParitySettings,
        checkpoint: Path,
        known: Mapping[str, Path],
        variant: str,
        questions: Sequence["Question"],
    ) -> None:
        import torch

        from mis_lib.probe.lora_tensors import read_adapter

        self.settings, self.checkpoint, self.known, self.variant = settings, checkpoint, known, variant
        self.questions, self.dtype = questions, getattr(torch, settings.dtype)
        self.generation = GenerationSettings(max_new_tokens=settings.max_new_tokens)
        self.stored = read_adapter(known[variant])
        self.expected: list[View] = []

    def run(self) -> Iterator[tuple[list[CheckResult], list["TensorUse"]]]:
        """Findings and tensors of each form; only of the first if the adapter does not fit and cannot be loaded."""
        from mis_lib.models.load import load_model
        from mis_lib.probe import lora_tensors
        from mis_lib.probe.parity import ask_alone

        uses = lora_tensors.places(self.checkpoint, self.known[self.variant], Form.TRAINING)
        if lora_tensors.wrong(uses):
            yield [self._tensors(Form.TRAINING, uses)], uses
            return
        self._say(Form.TRAINING)
        self.reference = load_model(
            self.checkpoint,
            {self.variant: self.known[self.variant]},
            self.settings.device,
            self.dtype,
            self.settings.quantization,
        )
        live: Any = self.reference.model
        uses = lora_tensors.attached(live, self.variant, self.stored, Form.TRAINING)
        self.expected = [
            ask_alone(Form.TRAINING, self.reference, self.variant, question, self.generation)
            for question in self.questions
        ]
        yield [self._tensors(Form.TRAINING, uses)], uses
        if Form.ROWS in self.settings.forms:
            from mis_lib.probe.parity import ask_rows, own_processor

            processor = own_processor(self.known[self.variant]) or self.reference.processor
            views = [ask_rows(Form.ROWS, processor, question) for question in self.questions]
            yield self._compare(views), []
        with ExitStack() as stack:
            yield from self._merged(stack)
        if Form.ENGINE in self.settings.forms:
            yield self._engine()

    def _merged(self, stack: ExitStack) -> Iterator[tuple[list[CheckResult], list["TensorUse"]]]:
        """The forms that use merged weights: in memory, from disk, served."""
        from mis_lib.models.load import load_model
        from mis_lib.models.merge import merge, save

        forms, folder = self.settings.forms, self.settings.merged
        serves = Form.SERVED in forms and self.settings.served is None
        if Form.MERGED in forms or (folder is None and (Form.RELOADED in forms or serves)):
            self._say(Form.MERGED)
            loaded = merge(self.checkpoint, self.known[self.variant], self.variant, self.settings.device, self.dtype)
            if folder is None and (Form.RELOADED in forms or serves):
                folder = save(loaded, Path(stack.enter_context(tempfile.TemporaryDirectory())) / self.variant)
            if Form.MERGED in forms:
                yield self._look(Form.MERGED, loaded)
            del loaded
        if folder is not None and Form.RELOADED in forms:
            self._say(Form.RELOADED)
            yield self._look(Form.RELOADED, load_model(folder, None, self.settings.device, self.dtype))
        if Form.SERVED in forms:
            yield self._served(stack, folder), []

    def _look(self, form: Form, loaded: "LoadedModel") -> tuple[list[CheckResult], list["TensorUse"]]:
        """A model without PEFT: its weights against the update, its answers against the reference's."""
        from mis_lib.probe import lora_tensors
        from mis_lib.probe.parity import ask_alone

        reference: Any = self.reference.model
        uses = lora_tensors.merged(reference, self.variant, loaded.model.state_dict(), self.stored, form)
        views = [ask_alone(form, loaded, None, question, self.generation) for question in self.questions]
        return [self._tensors(form, uses), *self._compare(views)], uses

    def _engine(self) -> tuple[list[CheckResult], list["TensorUse"]]:
        from mis_lib.generate.stream import VariantEngine
        from mis_lib.models.load import load_model
        from mis_lib.probe import lora_tensors
        from mis_lib.probe.parity import ask_engine

        self._say(Form.ENGINE)
        variants: dict[str, Path | None] = {"base": None, **self.known}
        loaded = load_model(self.checkpoint, variants, self.settings.device, self.dtype, self.settings.quantization)
        live: Any = loaded.model
        uses = lora_tensors.attached(live, self.variant, self.stored, Form.ENGINE)
        engine = VariantEngine(loaded, {name: None if folder is None else name for name, folder in variants.items()})
        views = [
            ask_engine(Form.ENGINE, engine, self.variant, question, self.generation) for question in self.questions
        ]
        return [self._tensors(Form.ENGINE, uses), *self._compare(views)], uses

    def _served(self, stack: ExitStack, folder: Path | None) -> list[CheckResult]:
        from mis_lib.models.devices import device_for
        from mis_lib.probe.parity import ask_server, transformers_serve

        self._say(Form.SERVED)
        url, _, name = (self.settings.served or "").partition("#")
        if not url:
            assert folder is not None  # _merged has saved it
            url, name = stack.enter_context(transformers_serve(folder, device_for(self.settings.device))), str(folder)
        views = [
            ask_server(Form.SERVED, url, name or None, question, self.generation, self.reference.processor)
            for question in self.questions
        ]
        unseen = CheckResult(
            variant=self.variant, form=Form.SERVED, question="", check=Check.TENSORS, status=Status.NOT_TOLD,
            detail="a server does not show its weights",
        )  # fmt: skip
        return [unseen, *self._compare(views)]

    def _compare(self, views: Sequence[View]) -> list[CheckResult]:
        from mis_lib.probe.parity import Reading, compare

        processor: Any = self.reference.processor
        reading = Reading(processor.tokenizer)
        return [
            finding
            for question, expected, view in zip(self.questions, self.expected, views, strict=True)
            for finding in compare(
                expected, view, variant=self.variant, question=question.name, dtype=self.settings.dtype, reading=reading
            )
        ]

    def _tensors(self, form: Form, uses: Sequence["TensorUse"]) -> CheckResult:
        from mis_lib.probe.lora_tensors import wrong

        first = wrong(uses)
        applied = sum(use.use == "applied" for use in uses)
        return CheckResult(
            variant=self.variant,
            form=form,
            question="",
            check=Check.TENSORS,
            status=Status.SAME if first is None else Status.DIFFERS,
            detail=f"{first.tensor} {first.use}: {first.detail}" if first else "",
            count=f"{applied}/{len(uses)}",
        )

    def _say(self, form: Form) -> None:
        say(f"{self.variant}: {form}")


class ParityReport(Record):
    """Everything that was compared; ``same`` if nothing differs."""

    dtype: str
    tolerance: float
    """Allowed difference of logits, as a share of the largest."""
    questions: list[str]
    findings: list[CheckResult]
    tensors: dict[str, list[dict[str, Any]]]
    """Every tensor of each variant's adapter in each form that can be looked into."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return first_difference(self.findings) is None


def parity(settings: ParitySettings) -> ParityReport:
    """Compare all forms of all variants.

    Raises:
        MisError: a setting, file, model or server cannot be used; the message says which and why.
        OSError: ``out`` cannot be written.
    """
    known = _variants(settings)
    if settings.out is not None:
        check_writable(settings.out)
    questions = _questions(settings)
    checkpoint = local_checkpoint(settings.checkpoint)
    findings: list[CheckResult] = []
    tensors: dict[str, list[dict[str, Any]]] = {}
    for variant in settings.variants or tuple(known):
        for part in Proof(settings, checkpoint, known, variant, questions).run():
            findings += part[0]
            tensors.setdefault(variant, []).extend(use.model_dump(mode="json") for use in part[1])
    report = ParityReport(
        dtype=settings.dtype,
        tolerance=TOLERANCE[settings.dtype],
        questions=[question.name for question in questions],
        findings=findings,
        tensors=tensors,
    )
    if settings.out is not None:
        write_atomic(settings.out, (report.model_dump_json(indent=1) + "\n").encode())
    return report


def _variants(settings: ParitySettings) -> dict[str, Path]:
    """Adapters by name; what was asked for is checked before anything is loaded."""
    from mis_lib.models.adapters import choose_variants

    chosen = choose_variants(settings.checkpoint, settings.adapters)
    known = {name: folder for name, folder in chosen.items() if folder is not None}
    if not known:
        raise SettingsError("expected at least one adapter, found none; name one with --adapters NAME=FOLDER")
    for name in settings.variants or ():
        if name not in known:
            raise SettingsError(f"--variants: unknown adapter {name!r}; known here: {', '.join(known)}")
    if settings.dtype not in TOLERANCE:
        raise SettingsError(f"--dtype: expected one of {', '.join(TOLERANCE)}, found {settings.dtype!r}")
    if settings.merged is not None and len(settings.variants or known) > 1:
        raise SettingsError("--merged: expected one variant with it, found several; name it with --variants")
    if (settings.question is None) != (not settings.images):
        raise SettingsError("expected --images and --question together, found only one of them")
    return known


def _questions(settings: ParitySettings) -> list["Question"]:
    from mis_lib.probe.parity import Question
    from mis_lib.train.encode import Example

    if settings.question is not None:
        paths = [path.resolve() for path in settings.images]
        folder = Path(os.path.commonpath([path.parent for path in paths]))
        samples = [
            Sample(id="question", question=settings.question, images=[str(path.relative_to(folder)) for path in paths])
        ]
    else:
        samples, folder = read_place(settings.data or mini_data(), (settings.split,))
        samples = samples[: settings.limit]
    return [
        Question(
            sample.id, [load_image(folder / name) for name in sample.images], sample.question, Example(sample, folder)
        )
        for sample in samples
    ]
