"""Settings of the two methods that learn from better and worse answers; otherwise as ``TrainSettings``, in the same files.

DPO (direct preference optimisation) moves the model from a rejected answer towards a preferred one. RAFT (reward-ranked fine-tuning) lets the model
answer several times, keeps the best answer by a judge, and fine-tunes on what was kept.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from mis_lib.train.settings import TrainSettings


class DpoSettings(TrainSettings):
    """DPO through TRL; the reference is the model as training finds it, so an adapter is trained and no second model is held."""

    method: Literal["dpo"] = "dpo"  # pyright: ignore[reportIncompatibleVariableOverride]
    pairs: Path | None = None
    """Folder or file of preference pairs; made of ``data`` if not given."""
    rejected: Literal["constructed", "own"] = "constructed"
    """Of pairs that are made: help said of the wrong images, or the model's own unsafe answers by the rule judge."""
    beta: float = Field(default=0.1, gt=0, le=100)
    """How dear it is to move away from the reference."""
    sft_weight: float = Field(default=0.0, ge=0, le=100)
    """Of the ordinary loss on preferred answers beside DPO's; without it their likelihood often falls too."""

    @model_validator(mode="after")
    def _fits_dpo(self) -> Self:
        refused = {
            "mixture": self.mixture is not None,
            "packing": bool(self.packing),
            "feature_cache": bool(self.feature_cache),
            "augment": self.augment,
            "liger": self.liger,
        }
        for name, given in refused.items():
            if given:
                raise ValueError(f"{name}: TRL's DPO on images has none of it; leave it out")
        if self.tuning != "lora":
            raise ValueError(f"tuning: DPO trains an adapter against its own start, expected lora, found {self.tuning}")
        return self


class RaftSettings(TrainSettings):
    """RAFT: rounds of answering, ranking and fine-tuning, each from the adapter of the one before."""

    method: Literal["raft"] = "raft"  # pyright: ignore[reportIncompatibleVariableOverride]
    rounds: int = Field(default=1, ge=1, le=20)
    answers: int = Field(default=4, ge=2, le=64)
    """Answers to each question in a round (best of k)."""
    temperature: float = Field(default=0.9, gt=0, le=2)
    prompts: int | None = Field(default=200, ge=1)
    """Harmful training items a round, each with its twin, other ones each round; all if null."""
    max_new_tokens: int = Field(default=160, ge=1, le=4096)
    generation_batch_size: int = Field(default=24, ge=1)
