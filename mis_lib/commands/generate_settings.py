"""What ``mis generate`` is asked for, in one frozen value that report, study and notebooks share."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from mis_lib.generate.served_models import UNNAMED, both_named
from mis_lib.generate.server import CONCURRENCY, ImagesAs
from mis_lib.settings import GenerationSettings, Settings

PAPER = GenerationSettings(max_new_tokens=1024)


class GenerateSettings(Settings):
    """What is asked of whom, and where the answers are kept; every field has a default that needs nothing but this package."""

    variants: tuple[str, ...] = ("mini", "mirage", "refusal", "textual")
    """Who answers [default: all of ``models`` or ``adapters``, "base" for another checkpoint or server, or the four shipped ones]."""
    splits: tuple[str, ...] = ("easy", "hard", "real")
    """Of a folder; if not given, those of the three that are there, or all that are."""
    data: Path | None = None
    """Folder with one JSON Lines file a split, a data file of any known form, or a published set; MIS-Mini if not given."""
    checkpoint: Path | None = None
    """Checkpoint folder or hub id in the local cache; the embedded model if not given."""
    adapters: dict[str, Path | None] | None = None
    """PEFT folder of each variant (null: the checkpoint itself); the shipped ones if not given."""
    generation: GenerationSettings = PAPER
    batch_size: int = Field(default=16, ge=1)
    batch_tokens: int | None = Field(default=32_768, ge=1)
    """Prompts and longest answers of a batch with padding; null: no bound."""
    device: str = "cpu"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the weights; auto: what suits the machine. Name one where shards run on different machines."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many harmful items a split, each with its twin."""
    only: tuple[str, ...] = ()
    """Ids of items; or RUN, RUN:VARIANT for what was answered wrong in a stored run, with the twins. Of all splits that are there, if none is named."""
    runs: Path = Path("runs")
    name: str = "generate"
    server: str | None = None
    """URL or URL#MODEL of an OpenAI-compatible server that answers instead of a checkpoint here; its key comes from OPENAI_API_KEY."""
    models: dict[str, str] | None = None
    """Name of the served model, or of its LoRA, for each variant [default: the variant's own name, or MODEL]."""
    images_as: ImagesAs = ImagesAs.BASE64
    concurrency: int = Field(default=CONCURRENCY, ge=1, le=1024)
    retries: int = Field(default=5, ge=0, le=20)
    timeout: float = Field(default=300.0, gt=0)
    """Seconds for one call to a server."""
    shard: str | None = Field(default=None, pattern=r"^\d+/\d+$")
    """"1/4": the first of four processes that share the work; told by accelerate launch if not given."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: dict[str, Any]) -> dict[str, Any]:
        if isinstance(asked := values.get("generation"), Mapping):  # what is not said stays as it is here
            values = {**values, "generation": {**cls.model_fields["generation"].default.model_dump(), **asked}}
        server, _, model = str(values.get("server") or "").partition("#")
        if model and values.get("models"):
            raise ValueError(both_named(model))
        if own := [target for target in (values.get("models") or {}).values() if "://" in str(target)]:
            raise ValueError(
                f"models: a run asks one server, found {own[0]} among its models; make a run for each server, mis report --existing takes several"
            )
        if model:
            values = {**values, "server": server, "models": {"base": model}}
        if values.get("variants") is not None:
            return values
        if server and not values.get("models"):
            raise ValueError(UNNAMED)
        named = values.get("models") or values.get("adapters") or (("base",) if values.get("checkpoint") else None)
        return {**values, "variants": tuple(named)} if isinstance(named, Collection) else values
