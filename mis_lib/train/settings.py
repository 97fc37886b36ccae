"""Settings of training: one frozen value for command line, form, notebook and study. Nothing here imports torch.

    settings = load_settings(TrainSettings, Path("configs/mini-mirage.yaml"), overrides=["lora.rank=8"])

A *step* is one update of the weights: ``batch_size`` rows over all devices. Each device takes its rows in as many
*passes* as it needs to hold no more than ``batch_tokens`` tokens at once. So the result depends on the rows in a step,
the speed on the tokens in a pass, and one file serves one GPU and eight of them.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from mis_lib.data.mixtures import Recipe, configured
from mis_lib.data.preferences import Preferred
from mis_lib.errors import SettingsError
from mis_lib.settings import RULE, Judged, Quantization, Settings

Tracker = Literal["trackio", "tensorboard", "wandb", "mlflow"]
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup", "cosine_with_min_lr"]

SCHEDULER_OPTIONS: dict[str, dict[str, Any]] = {"cosine_with_min_lr": {"min_lr_rate": 0.1}}


class LoraSettings(Settings):
    """Low-rank adapters (LoRA): where they sit and how large they are."""

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32, gt=0, allow_inf_nan=False)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ()
    """Names of linear layers, such as q_proj; empty: all of them in the parts that are trained."""
    first_layer: int = Field(default=0, ge=0)
    """Layers of the language model below this one are left alone: nothing is computed backwards in them."""
    experts: bool = False
    """Also the experts of a mixture, whose weights are one tensor a layer; every pass computes their whole update."""


class EvaluationSettings(Settings):
    """Safety and helpfulness measured while training goes on."""

    every: int = Field(default=0, ge=0)
    """Steps between evaluations; 0: none."""
    data: Path | None = None
    """Folder with one JSON Lines file a split; MIS-Mini if not given."""
    splits: tuple[str, ...] = ("hard",)
    judge: Judged = RULE
    """Who rules on the answers, as for ``mis judge --judges``."""
    limit: int | None = Field(default=12, ge=1)
    """Pairs of a harmful item and its twin, a split."""
    batch_size: int = Field(default=24, ge=1)
    max_new_tokens: int = Field(default=160, ge=1, le=4096)


class TrainSettings(Settings):
    """One training run; the defaults train a LoRA adapter of the embedded model on the training rows of MIS-Mini."""

    # --- model ---
    model: str = "mini"
    """``mini``, a checkpoint folder, or the id of a hub model."""
    start_from: Path | None = None
    """PEFT folder of an adapter that is trained further; it is copied, never changed. Its rank and targets stay."""
    quantization: Quantization | None = None
    """nf4 (QLoRA: 4 bits a weight) or int8: how the frozen weights of linear layers are stored; under LoRA only."""
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] | None = None
    """How attention is computed; what suits model and device if not given."""

    # --- data ---
    data: Path | None = None
    """A data file, a folder of ours, or a folder in a published layout; MIS-Mini if not given."""
    split: str = "train"
    """Of a folder."""
    mixture: str | None = None
    """A recipe of ``mis check --mixture`` composed of ``data`` (safety) and ``general``; the rows as they are if not
    given."""
    mixture_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the recipe: rows, share, seed, held_out ..."""
    arm: str | None = None
    """Of a recipe that compares two; the first if not given."""
    general: Path | None = None
    """General data of a mixture; split ``general`` of ``data`` if not given."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows, drawn by ``seed``."""
    max_length: int | None = Field(default=None, ge=16)
    """Tokens that a row may have; the model's context if not given. Longer rows are an error: nothing is cut."""
    min_pixels: int | None = Field(default=None, ge=1)
    max_pixels: int | None = Field(default=None, ge=1)
    """Limits of an image for models with grids (Qwen-VL)."""
    max_dynamic_patch: int | None = Field(default=None, ge=1)
    """Tiles of an image, for models with tiles (InternVL)."""
    augment: bool = False
    """Crop images a little and vary their brightness, anew each time."""
    image_mixup: float = Field(default=0.0, ge=0, lt=1)
    """At most so much of what the model sees of an image is another image's of the data, anew each time (mixup, Zhang
    et al. 2018), so that it meets images that are not clear; needs the feature cache."""

    # --- method ---
    method: Literal["sft"] = "sft"
    tuning: Literal["lora", "full"] = "lora"
    freeze_vision: bool = True
    freeze_projector: bool | None = None
    """What joins vision and language; frozen under LoRA, trained in full tuning if not given."""
    freeze_language: bool = False
    lora: LoraSettings = LoraSettings()

    # --- optimisation ---
    learning_rate: float = Field(default=2e-4, gt=0, lt=1)
    scheduler: Scheduler = "cosine"
    """cosine_with_min_lr ends at a tenth of the learning rate."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    """Wins over ``epochs``."""
    seed: int = Field(default=0, ge=0, lt=2**32)

    # --- batches ---
    batch_size: int = Field(default=16, ge=1)
    """Rows a step, over all devices and passes."""
    batch_tokens: int = Field(default=4096, ge=16)
    """Tokens a pass on one device, padding and images counted; a single longer row makes a pass of its own."""
    group_by_length: bool = True
    """Rows of a step have about the same length, which saves padding; all answer tokens of a run have one weight."""
    packing: bool | None = None
    """Rows of a pass behind each other without padding; where the model allows it if not given."""

    # --- speed and memory ---
    device: str | None = None
    """cpu or cuda (the first that CUDA_VISIBLE_DEVICES shows); auto, or not given: a CUDA GPU if there is one."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of the products; what is trained stays float32. bfloat16 where the device has it if not given."""
    gradient_checkpointing: bool = False
    feature_cache: bool | None = None
    """Images are encoded once and read back; where it is possible and pays if not given."""
    compile: bool = False
    """Fuse the decoder layers' small operations; needs a compiler, and a minute at the start."""
    liger: bool = False
    """Liger kernels (GPU, package liger-kernel)."""
    workers: int | None = Field(default=None, ge=0, le=64)
    """Processes that decode images; what suits the machine if not given."""

    # --- logs, checkpoints, evaluation ---
    name: str = "train"
    runs: Path = Path("runs")
    resume: bool = True
    """Go on with the newest unfinished run of the same name and settings."""
    log_every: int = Field(default=1, ge=1)
    save_every: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0: only when the run is stopped."""
    keep_checkpoints: int = Field(default=2, ge=1)
    report_to: Annotated[
        tuple[Tracker, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)
    ] = ()
    """Trackers that get the log, too: trackio, tensorboard, wandb, mlflow. Weights & Biases is offline, and the others
    keep to this machine, unless their environment variables say otherwise (WANDB_MODE, TRACKIO_SPACE_ID,
    MLFLOW_TRACKING_URI)."""
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="before")
    @classmethod
    def _read_older_name(cls, values: dict[str, Any]) -> dict[str, Any]:
        """``tensorboard: true`` of runs before there was ``report_to``."""
        if "tensorboard" not in values:
            return values
        rest = {name: value for name, value in values.items() if name != "tensorboard"}
        return {"report_to": ("tensorboard",), **rest} if values["tensorboard"] else rest

    @model_validator(mode="after")
    def _something_is_trained(self) -> Self:
        if self.freeze_vision and self.freeze_language and self.projector_is_frozen:
            raise ValueError(
                "expected at least one part to train, found freeze_vision, freeze_projector, freeze_language"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.start_from is not None and self.tuning == "full":
            raise ValueError("start_from: an adapter is trained further with tuning: lora, found tuning: full")
        if self.mixture is None and (self.mixture_options or self.arm or self.general):
            raise ValueError("mixture_options, arm and general need the name of a mixture, found none")
        if self.feature_cache and (reason := self.no_feature_cache):
            raise ValueError(f"feature_cache: {reason}")
        if self.image_mixup and (
            reason := self.no_feature_cache or (self.feature_cache is False and "feature_cache: false")
        ):
            raise ValueError(f"image_mixup: expected stored image features to mix, found {reason}")
        return self

    @model_validator(mode="after")
    def _quantized_weights_are_frozen(self) -> Self:
        if self.quantization is None:
            return self
        if self.tuning == "full":
            raise ValueError("quantization: quantized weights cannot be trained, expected tuning lora, found full")
        if not self.projector_is_frozen:
            raise ValueError("quantization: a quantized projector cannot be trained, expected freeze_projector true")
        return self

    @property
    def projector_is_frozen(self) -> bool:
        """Whether the projector is left alone."""
        return self.tuning == "lora" if self.freeze_projector is None else self.freeze_projector

    @property
    def no_feature_cache(self) -> str | None:
        """Why these settings allow no feature cache, or ``None`` if they do."""
        if self.augment:
            return "augment changes every image each time, so that nothing can be stored; set augment: false"
        if not self.freeze_vision:
            return "the vision tower is trained, so that its features change; set freeze_vision: true"
        return None


def recipe_of(settings: TrainSettings) -> tuple[Recipe, str]:
    """The recipe of the settings' mixture, and the arm of it that is trained on.

    Raises:
        SettingsError: the mixture, its arm or an option is unknown, or a value does not fit.
    """
    options = [f"{key}={json.dumps(value)}" for key, value in settings.mixture_options.items()]
    recipe = configured(settings.mixture or "", options)
    names = [arm.name for arm in recipe.arms]
    arm = settings.arm or names[0]
    if arm not in names:
        raise SettingsError(f"arm: unknown {arm!r} of mixture {recipe.name}; known: {', '.join(names)}")
    return recipe, arm


Given = TypeVar("Given", bound=TrainSettings)


def _fits_trl(settings: Given, method: str) -> Given:
    """Refuse what TRL's trainers of models with images have not."""
    return _without(settings, f"TRL's {method} on images", feature_cache=bool(settings.feature_cache))


def _without(settings: Given, method: str, **also: bool) -> Given:
    """Refuse what a method that trains against its own start does not have; ``also``: more of it, and whether given."""
    refused = {
        "mixture": settings.mixture is not None,
        "packing": bool(settings.packing),
        "augment": settings.augment,
        "liger": settings.liger,
        "evaluation.every": bool(settings.evaluation.every),
        **also,
    }
    for name, given in refused.items():
        if given:
            raise ValueError(f"{name}: {method} has none of it; leave it out")
    if settings.tuning != "lora":
        raise ValueError(
            f"tuning: {method} trains an adapter against its own start, expected lora, found {settings.tuning}"
        )
    return settings


class PairSettings(TrainSettings):
    """What methods share that learn from safe and unsafe answers to the same questions."""

    pairs: Path | None = None
    """Folder or file of preference pairs; made of ``data`` if not given."""
    rejected: Literal["constructed", "own"] | None = None
    """Of pairs that are made: help said of the wrong images, or the model's own unsafe answers; constructed where
    harmful rows have twins if not given."""
    prefer: Preferred | None = None
    """Of published sets that rate two responses: the rating that decides. agreed: pairs in which the more helpful
    response is the safer one, too. BeaverTails-V needs one of helpful, safer and agreed; SPA-VL has overall only.
    Pairs are then those of the set, whatever ``rejected`` says."""
    judge: Judged = RULE
    """Who says which of its own answers are unsafe, as for ``mis judge --judges``."""
    answers: int = Field(default=1, ge=1, le=64)
    """Own answers to each harmful row; 1: the greedy one. A safe one is preferred where the data have no answer."""
    temperature: float = Field(default=0.9, gt=0, le=2)
    """Of several own answers."""


class DpoSettings(PairSettings):
    """DPO (direct preference optimisation) by TRL: from a rejected answer towards a preferred one.

    The reference is the model before training, so an adapter is trained and no second model is held.
    """

    method: Literal["dpo"] = "dpo"  # pyright: ignore[reportIncompatibleVariableOverride]
    beta: float = Field(default=0.1, gt=0, le=100)
    """Cost of moving away from the reference."""
    sft_weight: float = Field(default=0.0, ge=0, le=100)
    """Weight of the ordinary loss on preferred answers, added to DPO's; without it their likelihood often falls."""

    @model_validator(mode="after")
    def _fits_dpo(self) -> Self:
        return _fits_trl(self, "DPO")


class UnlearnSettings(PairSettings):
    """What the two methods of unlearning share: unsafe answers are forgotten, harmless rows are kept."""

    retain: Path | None = None
    """Rows whose answers are kept besides those of benign pairs: a file, or a folder with ``split``."""
    retain_weight: float = Field(default=1.0, ge=0, le=100)
    """Weight of the ordinary loss on the answers that are kept."""

    @model_validator(mode="after")
    def _fits_unlearning(self) -> Self:
        return _without(self, "unlearning", image_mixup=bool(self.image_mixup))


class NpoSettings(UnlearnSettings):
    """NPO (negative preference optimisation): unsafe answers become less likely than they were at the start."""

    method: Literal["npo"] = "npo"  # pyright: ignore[reportIncompatibleVariableOverride]
    beta: float = Field(default=0.1, gt=0, le=100)
    """How soon an answer counts as forgotten; near 0 none ever does (gradient ascent)."""
    preserve: float = Field(default=0.0, ge=0, le=1e6)
    """Weight of the squared change of the logits at answers that are kept."""


class RmuSettings(UnlearnSettings):
    """RMU (representation misdirection for unlearning): hidden states of unsafe answers are steered to one vector."""

    method: Literal["rmu"] = "rmu"  # pyright: ignore[reportIncompatibleVariableOverride]
    layer: int | None = Field(default=None, ge=0)
    """Of the language model, from 0, whose hidden states are steered; the middle one if not given."""
    steering: float = Field(default=10.0, gt=0, le=1e4)
    """Length of the vector; its direction is drawn by ``seed``."""
    preserve: float = Field(default=1.0, ge=0, le=1e6)
    """Weight of the squared change of that layer's hidden states at answers that are kept."""


class RaftSettings(TrainSettings):
    """RAFT (reward-ranked fine-tuning): in rounds, each from the adapter of the one before.

    In a round the model answers several times, a judge picks the best answer, and the model is fine-tuned on it.
    """

    method: Literal["raft"] = "raft"  # pyright: ignore[reportIncompatibleVariableOverride]
    rounds: int = Field(default=1, ge=1, le=20)
    judge: Judged = RULE
    """Who ranks the answers, as for ``mis judge --judges``."""
    answers: int = Field(default=4, ge=2, le=64)
    """Answers to each question in a round (best of k)."""
    temperature: float = Field(default=0.9, gt=0, le=2)
    prompts: int | None = Field(default=200, ge=1)
    """Harmful training items a round, each with its twin, other ones each round; all if null."""
    max_new_tokens: int = Field(default=160, ge=1, le=4096)
    generation_batch_size: int = Field(default=24, ge=1)


class KtoSettings(TrainSettings):
    """KTO (Kahneman-Tversky optimisation) by TRL: from answers of a run that were called right or wrong."""

    method: Literal["kto"] = "kto"  # pyright: ignore[reportIncompatibleVariableOverride]
    answers: Path = Path("runs/report")
    """The run (RUNS/NAME/vN) whose answers are learned from; ``data`` names its samples if they have moved."""
    variant: str | None = None
    """Whose answers; of all variants if not given."""
    verdicts: str = "people"
    """Who called them right or wrong: people (annotations), or the name of a judge that has ruled on the run."""
    beta: float = Field(default=0.1, gt=0, le=100)
    """Cost of moving away from the reference."""

    @model_validator(mode="after")
    def _fits_kto(self) -> Self:
        return _fits_trl(self, "KTO")


class MultiplierSettings(Settings):
    """The price of an unsafe answer, which training moves; the defaults are Safe RLHF-V's, but for the start."""

    start: float = Field(default=1.0, gt=0, le=1000)
    """10 in Safe RLHF-V, whose advantages are not normalised."""
    largest: float = Field(default=20.0, gt=0, le=1000)
    rate: float = Field(default=0.1, ge=0, le=10)
    """Of the steps on its logarithm; 0: the price is fixed."""
    window: int = Field(default=128, ge=1)
    """Answers to harmful prompts that the mean cost is taken over."""

    @model_validator(mode="after")
    def _starts_below_the_largest(self) -> Self:
        if self.start > self.largest:
            raise ValueError(f"start: expected at most largest ({self.largest}), found {self.start}")
        return self


class GrpoSettings(TrainSettings):
    """Constrained GRPO (reinforcement learning): helpful answers under a limit on unsafe ones, as a judge sees both."""

    method: Literal["safe_grpo"] = "safe_grpo"  # pyright: ignore[reportIncompatibleVariableOverride]
    judge: Judged = RULE
    """Who says what an answer is, as for ``mis judge --judges``."""
    answers: int = Field(default=8, ge=2, le=64)
    """Answers to each prompt; ``batch_size`` counts answers and is a multiple of it."""
    temperature: float = Field(default=1.0, gt=0, le=2)
    max_new_tokens: int = Field(default=160, ge=1, le=4096)
    cost_limit: float = Field(default=0.05, ge=0, le=1)
    """Share of answers to harmful prompts that may be unsafe."""
    multiplier: MultiplierSettings = MultiplierSettings()
    kl: float = Field(default=0.02, ge=0, le=10)
    """Cost of moving away from the start."""
    clip: float = Field(default=0.2, gt=0, lt=1)
    """How far the probability of a token may change on one batch of answers."""

    @model_validator(mode="after")
    def _fits_grpo(self) -> Self:
        return _fits_trl(self, "GRPO")
