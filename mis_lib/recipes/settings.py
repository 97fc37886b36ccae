"""Settings of ``mis generate``, which other recipes extend, and of ``mis report``.

They are apart from the recipes so that ``mis VERB --help`` imports no client, statistics or tables.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mis_lib.construct.drawings import STYLES
from mis_lib.generate.prompting import Prompting
from mis_lib.settings import IMAGE_PIXELS, GenerationSettings, ImagePixels, ImagesAs, Quantization, Settings

PAPER = GenerationSettings(max_new_tokens=1024)


class GenerateSettings(Settings):
    """What is asked of whom, and where the answers are kept; the defaults need nothing but this package."""

    variants: tuple[str, ...] = ("mini", "mirage", "refusal", "textual")
    """NAME or NAME+PROMPTS (default: all of ``models`` or ``adapters``; base of a checkpoint; else the shipped)."""
    splits: tuple[str, ...] = ("easy", "hard", "unseen", "real")
    """Splits of a data folder (default: those of easy hard unseen real that it has, or else all)."""
    data: Path | None = None
    """Folder of data files, a data file of any known form, or a published set (default: MIS-Mini)."""
    checkpoint: Path | None = None
    """Checkpoint folder, or hub id (default: the embedded model)."""
    adapters: dict[str, Path | None] | None = None
    """NAME=FOLDER of each PEFT adapter, or NAME=FILE of a weight edit, next to base (default: the shipped)."""
    generation: GenerationSettings = PAPER
    batch_size: int = Field(default=16, ge=1)
    """Most rows of a batch."""
    batch_tokens: int | None = Field(default=32_768, ge=1)
    """Most tokens of a batch: prompts and longest answers with padding; null: no bound."""
    device: str = "auto"
    """auto (a CUDA GPU if there is one, else the CPU), cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """float32, bfloat16, float16; auto suits the machine: name one where shards run on different machines."""
    quantization: Quantization | None = Field(default=None, exclude_if=lambda value: value is None)
    """nf4 (4 bits a weight) or int8: linear layers' weights, quantized while they are loaded (bitsandbytes)."""
    min_pixels: int | None = Field(default=None, ge=1, exclude_if=lambda value: value is None)
    """Of one image, for models with grids, as in training (default: the adapter's or the checkpoint's own)."""
    max_pixels: int | None = Field(default=None, ge=1, exclude_if=lambda value: value is None)
    """Of one image, for models with grids, as in training (default: the adapter's or the checkpoint's own)."""
    max_dynamic_patch: int | None = Field(default=None, ge=1, exclude_if=lambda value: value is None)
    """Tiles of one image, for models with tiles, as in training (default: the adapter's or the checkpoint's own)."""
    prompts: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Prompting] = Field(
        default_factory=dict, exclude_if=lambda value: not value
    )
    """NAME=FILE: texts around a question, or a defence, for --variants base+NAME (default: the shipped ones)."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many harmful items a split, each with its twin; null: all."""
    only: tuple[str, ...] = ()
    """Ids of items, or RUN[:VARIANT]: what a stored run answered wrong, with twins; of all splits, or those named."""
    runs: Path = Path("runs")
    """Folder of all runs."""
    name: str = "generate"
    """Name of this run."""
    server: str | None = None
    """URL or URL#MODEL of an OpenAI-compatible server that answers instead; its key comes from OPENAI_API_KEY."""
    models: dict[str, str] | None = None
    """Served models or LoRAs: MODEL, or VARIANT=MODEL (default: the variants' names, or the MODEL of the server)."""
    images_as: ImagesAs = ImagesAs.BASE64
    """How a server gets images: base64, or file (paths that it can read)."""
    image_pixels: ImagePixels = Field(default=IMAGE_PIXELS, exclude_if=lambda value: value == IMAGE_PIXELS)
    """Most pixels of an image that a server is sent; larger ones are scaled down (not with ``images_as: file``)."""
    concurrency: int = Field(default=16, ge=1, le=1024)
    """Requests to a server at a time."""
    retries: int = Field(default=5, ge=0, le=20)
    """Further attempts of a call to a server that failed."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds for one call to a server."""
    shard: str | None = Field(default=None, pattern=r"^\d+/\d+$")
    """I/N: this process is the I-th of N that share the work (default: as accelerate launch says)."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: dict[str, Any]) -> dict[str, Any]:
        if isinstance(asked := values.get("generation"), Mapping):  # what is not given keeps the defaults of this class
            values = {**values, "generation": {**cls.model_fields["generation"].default.model_dump(), **asked}}
        server, _, model = str(values.get("server") or "").partition("#")
        if model and values.get("models"):
            from mis_lib.generate.served import both_named

            raise ValueError(both_named(model))
        if own := [target for target in (values.get("models") or {}).values() if "://" in str(target)]:
            raise ValueError(
                f"models: a run asks one server, found {own[0]} among its models; make a run for each server, "
                "mis report --existing takes several"
            )
        if model:
            values = {**values, "server": server, "models": {"base": model}}
        if values.get("variants") is not None:
            return values
        if server and not values.get("models"):
            from mis_lib.generate.served import UNNAMED

            raise ValueError(UNNAMED)
        named = values.get("models") or values.get("adapters") or (("base",) if values.get("checkpoint") else None)
        return {**values, "variants": tuple(named)} if isinstance(named, Collection) else values


class ReportSettings(GenerateSettings):
    """What is evaluated and where it is kept; every field has a default that needs nothing but this package."""

    by: str = "split"
    """Rows: split, category, sub_category, seen (images that the answer names), or FILE[#COLUMN]: ids and slices."""
    generation: GenerationSettings = GenerationSettings()
    name: str = "report"
    naming: bool = False
    """Measure what is recognised, instead of what is safe."""
    styles: tuple[str, ...] = STYLES
    """With naming: drawing styles (default: all)."""
    questions: Path | None = None
    """Text file, a question a line, asked instead of the pairs' own; pairs with a harmful question are left out."""
    exchanged: bool = False
    """Ask pairs with their images exchanged, and "first" and "second" exchanged in their questions."""
    one_word: str | None = Field(default=None, pattern=r"^[^\W_][\w'-]*$")
    """Exchange the first word of each question for this one; pairs whose question begins with it are left out."""
    existing: tuple[Path, ...] = ()
    """Run folders to read as they are; nothing is generated."""
    judges: tuple[str, ...] = ()
    """Who rules, as for mis judge (default: rule); with existing runs: whose verdicts (default: of all judges)."""
    majority: bool = False
    """The existing runs are draws of the same variants; the majority decides item by item (SIUO asks for three)."""
    effectiveness: Path | None = None
    """SIUO: JSON Lines file of its second judgement, a line a response (sample_id, variant, said)."""
    paired: tuple[str, ...] = ()
    """BEFORE AFTER, each VARIANT or RUN:VARIANT: compare them item by item."""
    published: bool = False
    """Show the published figures, too."""
    regression: Path | None = None
    """Regression set of ``mis annotations delta``, shown first (default: regression.jsonl in the run's data folder)."""
    note: str | None = None
    """Note to keep with the run (``note.md``), or with the one existing run; an empty note removes it."""
    out: Path | None = None
    """Folder to write every table to, in every format."""
