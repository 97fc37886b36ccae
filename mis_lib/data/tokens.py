"""Budget: how many tokens the rows of a data set will cost a given model, before anything is loaded.

A checkpoint on this machine (a folder, or a hub id in the local cache) is counted exactly: its processor's image
settings, its chat template and its tokenizer. A model known only by its published name is counted from published
settings, its text at four characters a token (which overestimates English a little).

Image tokens follow from width and height alone: one small class for each way in which models cut images up, each tested
against the image processor of transformers. Sizes are ``(width, height)`` in pixels, as shown. Marks around an image
(vision start and end, tile names) count, since they take room too.

A checkpoint of any other family is counted by its own processor (``ByProcessor``), as training does. That is not the
rule: a published name has no processor, those of Qwen-VL, InternVL, LLaVA-OneVision and SmolVLM need torchvision, which
is optional here, and importing transformers takes four seconds of processor time, half of what a check of 4,000 rows
with 8,000 photographs takes.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import jinja2
import jinja2.sandbox
from PIL import Image
from pydantic import Field, model_validator
from tokenizers import Tokenizer

from mis_lib.data.images import Size
from mis_lib.errors import ModelError, SettingsError
from mis_lib.settings import Quantization, Settings

MEMORY_FORMULA = (
    "weights (parameters x bytes; nf4 0.52 and int8 1 byte, but for vocabulary and experts) + training state (LoRA: "
    "16 bytes a trained weight; full: 16 bytes a weight in all), both shared by the GPUs, with two layers gathered on"
    " each + tokens of a pass (batch x longest row, or batch_tokens) x (layers x bytes x (8 hidden + 2 key/value + 5 "
    "intermediate) + 2 x bytes x vocabulary); with checkpointing only hidden a layer and one whole layer; without the"
    " frozen vision tower's passing use (under 2 %) and the allocator's slack (5-10 %)"
)
CHARACTERS_A_TOKEN = 4
CHATML_TOKENS = 21  # a default system turn and the marks of two turns, in Qwen's vocabulary
EXPERTS = ".experts."  # in the names of their tensors, which may be one an expert or one a layer
EXCHANGE_TOKENS = 10  # the marks of two turns more
IMAGE_MARKS = ("<image>", "<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>", "<|image_pad|>")


class ImageTokens(Protocol):
    """Counts the tokens of the images of one row."""

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """Tokens of each image, in order.

        A row's images are given together because some models share a budget among them.
        """
        ...


class Fixed(Settings):
    """Every image is scaled to one size (LLaVA-1.5, FastVLM, mini)."""

    tokens: int

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """The same for every image."""
        return [self.tokens for _ in sizes]


class Grid(Settings):
    """Images keep their shape.

    Sides are rounded to whole cells within a budget of pixels (Qwen2-VL, Qwen2.5-VL, Qwen3-VL).
    """

    patch: int = 14
    merge: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 16384 * 28 * 28

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """Cells of the grid, and the marks before and after it."""
        return [math.prod(self.cells(size)) + 2 for size in sizes]

    def cells(self, size: Size) -> tuple[int, int]:
        """Columns and rows of merged patches."""
        side = self.patch * self.merge
        columns, rows = round(size.width / side), round(size.height / side)
        pixels = columns * rows * side * side
        if pixels > self.max_pixels:
            scale = math.sqrt(size.width * size.height / self.max_pixels)
            return max(1, math.floor(size.width / scale / side)), max(1, math.floor(size.height / scale / side))
        if pixels < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (size.width * size.height))
            return math.ceil(size.width * scale / side), math.ceil(size.height * scale / side)
        return columns, rows


class Tiles(Settings):
    """Square tiles in the grid whose shape is nearest the image's, and a thumbnail if there are several (InternVL)."""

    side: int = 448
    tokens: int = 256
    max_tiles: int = 12
    """Of an image, as in training and generation here.

    InternVL's own training script shares them among the images of a row.
    """

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """Tiles with thumbnail, and the marks before and after them."""
        return [self.tiles(size) * self.tokens + 2 for size in sizes]

    def tiles(self, size: Size) -> int:
        """How many tiles; of equally fitting grids the larger one, if the image has at least half its area."""
        grids = [(x, y) for x in range(1, self.max_tiles + 1) for y in range(1, self.max_tiles // x + 1)]
        best, nearest = (1, 1), math.inf
        for grid in sorted(grids, key=math.prod):
            distance = abs(size.width / size.height - grid[0] / grid[1])
            if distance < nearest:
                best, nearest = grid, distance
            elif distance == nearest and size.width * size.height > 0.5 * self.side**2 * math.prod(grid):
                best = grid
        number = math.prod(best)
        return number + 1 if number > 1 else 1


class AnyRes(Settings):
    """A single image in the best of many resolutions, padding cut away, and the whole image.

    Several images once each (LLaVA-OneVision).
    """

    side: int = 384
    patches: int = 27
    """Patches along a side of a tile."""
    max_tiles: int = 9
    pinpoints: tuple[tuple[int, int], ...] = tuple((y * 384, x * 384) for y in range(1, 7) for x in range(1, 7))
    """Resolutions to choose from, (height, width)."""

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """Tokens of the whole image and, where it is the only one, of its tiles with a mark after each line."""
        whole = self.patches**2
        if len(sizes) != 1:
            return [whole + 1 for _ in sizes]
        return [whole + self._tiled(sizes[0])]

    def _tiled(self, size: Size) -> int:
        best_height, best_width = self._resolution(size)
        rows, columns = self.patches * (best_height // self.side), self.patches * (best_width // self.side)
        if size.width / size.height > columns / rows:
            rows -= (rows - int(round(size.height * (columns / size.width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(size.width * (rows / size.height), 7))) // 2 * 2
        excess = math.sqrt(columns * rows / (self.max_tiles * self.patches**2))
        if excess > 1.1:
            rows, columns = int(rows // excess), int(columns // excess)
        return rows * columns + rows

    def _resolution(self, size: Size) -> tuple[int, int]:
        """The pinpoint that keeps most of the image's pixels and, of those, wastes fewest."""

        def worth(point: tuple[int, int]) -> tuple[int, int]:
            scale = min(point[1] / size.width, point[0] / size.height)
            kept = min(int(size.width * scale) * int(size.height * scale), size.width * size.height)
            return kept, kept - math.prod(point)

        return max(self.pinpoints, key=worth)


class Splits(Settings):
    """Idefics3, SmolVLM: the longer side is scaled to one length; square pieces, each named, and the whole image."""

    longest: int = 1456
    side: int = 364
    tokens: int = 169
    """Tokens of one piece."""

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """Pieces with their marks and line ends, and the whole with its three marks."""
        return [self._one(size) for size in sizes]

    def _one(self, size: Size) -> int:
        width, height = self._scaled(size)
        columns, rows = math.ceil(width / self.side), math.ceil(height / self.side)
        whole = self.tokens + 3
        return whole if columns * rows == 1 else whole + rows * (columns * (self.tokens + 2) + 1)

    def _scaled(self, size: Size) -> tuple[int, int]:
        """Width and height with the longer side at its length, the other even."""
        ratio = size.width / size.height
        if size.width >= size.height:
            height = int(self.longest / ratio)
            return self.longest, max(1, height + height % 2)
        width = int(self.longest * ratio)
        return max(1, width + width % 2), self.longest


class ByProcessor:
    """As the processor of a checkpoint counts (``_get_num_multimodal_tokens``).

    Families differ in whether its numbers hold the marks around an image. So three prompts are processed whole, and
    what an image takes beyond the number is added; if that hangs on its size, the processor cannot be relied on.
    ``added`` is what it adds to a row, whatever its images: PaliGemma's puts a token and a line end into the text.

    Args:
        folder: the checkpoint.
        text_tokens: tokens of a question about so many images, those of the images left out.

    Raises:
        ModelError: the processor cannot be loaded, does not count, or counts otherwise than it processes; says why.
    """

    TRIALS = (((64, 48),), ((640, 480), (100, 300)), ((90, 33), (400, 400)))
    """Width and height of the images of each prompt that is tried."""

    def __init__(self, folder: Path, text_tokens: Callable[[int, str], int]) -> None:
        from transformers import AutoProcessor  # takes seconds to import

        try:
            self._processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
            raise self._refused(f"its processor cannot be loaded ({_first_line(error)})") from error
        if not hasattr(self._processor, "_get_num_multimodal_tokens"):
            raise self._refused(f"its processor ({type(self._processor).__name__}) does not count")
        self._marks = 0
        one, two, other_two = (self._missed(sizes, text_tokens) for sizes in self.TRIALS)
        if two != other_two:
            raise self._refused(f"its processor counts otherwise than it processes (by {two} and {other_two} tokens)")
        self._marks = two - one
        self.added = one - self._marks  # nothing can be said of it where the text is only estimated

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """Tokens of each image with its marks; the processor is asked for a row's images together."""
        if not sizes:
            return []
        counted = self._processor._get_num_multimodal_tokens([(size.height, size.width) for size in sizes])
        return [number + self._marks for number in counted["num_image_tokens"]]

    def _missed(self, sizes: Sequence[tuple[int, int]], text_tokens: Callable[[int, str], int]) -> int:
        """Tokens of a whole prompt beyond those of its text and the counted ones of its images."""
        content: list[dict[str, Any]] = [{"type": "image", "image": Image.new("RGB", size)} for size in sizes]
        turns = [{"role": "user", "content": [*content, {"type": "text", "text": "?"}]}]
        try:
            whole = self._processor.apply_chat_template(
                [turns], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
            counted = sum(self.count([Size(*size) for size in sizes]))
        except (
            ImportError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RuntimeError,
            jinja2.TemplateError,
        ) as error:
            raise self._refused(f"its processor fails on a prompt with images ({_first_line(error)})") from error
        return whole["input_ids"].shape[1] - text_tokens(len(sizes), "?") - counted

    @staticmethod
    def _refused(why: str) -> ModelError:
        return ModelError(
            f"its image tokens cannot be counted: {why}; leave --model out, or name a model of its family"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


QWEN3_GRID = Grid(patch=16, min_pixels=65536, max_pixels=16777216)
LARGE_SMOLVLM = Splits(longest=1536, side=384, tokens=81)
# Model names as people write them -> how it counts; the first pattern found in the name wins.
FAMILIES: Mapping[str, ImageTokens] = {
    r"^mini$": Fixed(tokens=9),
    r"qwen-?3-?vl": QWEN3_GRID,
    r"qwen-?2(\.|_)5-?_?vl": Grid(),
    r"qwen-?2-?_?vl": Grid(),
    r"internvl": Tiles(),
    r"llava-?_?(onevision|ov)": AnyRes(),
    r"llava-?v?1\.5": Fixed(tokens=576),
    r"idefics-?3": Splits(),
    r"smolvlm2?-(256m|500m)": Splits(longest=2048, side=512, tokens=64),
    r"smolvlm": LARGE_SMOLVLM,
}


class Shape(Settings):
    """What a memory estimate needs to know of a model."""

    parameters: int
    hidden: int
    layers: int
    key_value: int
    intermediate: int
    vocabulary: int
    weight_bytes: int = 2
    experts: int = 0
    """Weights of experts, which transformers joins to one parameter a layer."""

    def lora_parameters(self, rank: int) -> int:
        """Weights of low-rank updates of all seven linear layers of every block."""
        return rank * self.layers * (9 * self.hidden + 2 * self.key_value + 3 * self.intermediate)


# Published sizes (model cards and configurations).
_QWEN2_7B: dict[str, int] = {
    "hidden": 3584,
    "layers": 28,
    "key_value": 512,
    "intermediate": 18944,
    "vocabulary": 152064,
}
SHAPES: Mapping[str, Shape] = {
    r"^mini$": Shape(parameters=163_000_000, hidden=576, layers=30, key_value=192, intermediate=1536, vocabulary=49153),
    r"qwen-?2(\.5)?-?vl-7b": Shape(parameters=8_290_000_000, **_QWEN2_7B),
    r"qwen-?2-?vl-2b": Shape(parameters=2_210_000_000, hidden=1536, layers=28, key_value=256,
        intermediate=8960, vocabulary=151936),
    r"qwen-?2\.5-?vl-3b": Shape(parameters=3_750_000_000, hidden=2048, layers=36, key_value=256,
        intermediate=11008, vocabulary=151936),
    r"internvl-?2[._]5-8b": Shape(parameters=8_080_000_000, hidden=4096, layers=32, key_value=1024,
        intermediate=14336, vocabulary=92553),
    r"llava-?_?(onevision|ov).*7b": Shape(parameters=8_030_000_000, **_QWEN2_7B),
    r"idefics-?3-8b": Shape(parameters=8_460_000_000, hidden=4096, layers=32, key_value=1024,
        intermediate=14336, vocabulary=128259),
    r"smolvlm2?-256m": Shape(parameters=256_000_000, hidden=576, layers=30, key_value=192,
        intermediate=1536, vocabulary=49280),
    r"smolvlm2?-500m": Shape(parameters=507_000_000, hidden=960, layers=32, key_value=320,
        intermediate=2560, vocabulary=49280),
}  # fmt: skip


class Training(Settings):
    """How it will be trained, as far as memory depends on it."""

    batch_size: int = 1
    """For the memory estimate: rows a step."""
    lora_rank: int = 16
    """For the memory estimate; 0: all weights are trained."""
    checkpointing: bool = False
    """For the memory estimate: gradient checkpointing."""
    batch_tokens: int | None = Field(default=None, ge=16)
    """For the memory estimate: tokens of a pass on one GPU, as in training; then batch_size does not count."""
    gpus: int = Field(default=1, ge=1)
    """For the memory estimate, of each GPU: how many share weights and training state (FSDP)."""
    quantization: Quantization | None = None
    """For the memory estimate: nf4 (QLoRA) or int8, the frozen weights' number type under LoRA."""

    @model_validator(mode="after")
    def _quantized_weights_are_frozen(self) -> Self:
        if self.quantization and not self.lora_rank:
            raise ValueError("quantization: its weights cannot be trained, expected lora_rank above 0, found 0")
        if self.quantization and self.gpus > 1:
            raise ValueError("quantization: each GPU holds all quantized weights, expected gpus 1, found more")
        return self


class Memory(Settings):
    """A memory estimate in bytes, term by term."""

    weights: int
    state: int
    activations: int
    longest: int
    """Tokens of the longest row, to which its batch is padded."""
    training: Training
    gathered: int = 0
    """Of layers that FSDP puts together on each GPU while it computes them."""

    @property
    def total(self) -> int:
        """All terms."""
        return self.weights + self.gathered + self.state + self.activations


class Budget(NamedTuple):
    """One model's way of counting."""

    name: str
    image_tokens: ImageTokens
    context: int | None
    """Tokens that the model can read."""
    shape: Shape | None
    tokenizer: Tokenizer | None = None
    template: jinja2.Template | None = None
    added: int = 0
    """Tokens that the processor adds to the text of a row with images."""

    @property
    def is_exact(self) -> bool:
        """Whether texts are counted by the model's own tokenizer and template."""
        return self.tokenizer is not None and self.template is not None

    def text_tokens(self, rows: Sequence[tuple[int, str, str | None]]) -> list[int]:
        """Text tokens of each row (number of images, question, answer), template included, image tokens left out."""
        texts = [self._rendered(*row) for row in rows]
        marks = 0 if self.template is not None else CHATML_TOKENS
        if self.tokenizer is None:
            return [marks + estimate(text) for text in texts]
        encoded = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [
            marks + len(found) + (self.added if images else 0)
            for found, (images, _, _) in zip(encoded, rows, strict=True)
        ]

    @property
    def exchange_tokens(self) -> int:
        """What the template adds for a further question and its answer, whose words are counted with the others."""
        if self.template is None or self.tokenizer is None:
            return EXCHANGE_TOKENS
        one, two = (
            self.tokenizer.encode(_render(self.template, 0, "a", "b", further=further), add_special_tokens=False)
            for further in (0, 1)
        )
        return max(0, len(two) - len(one) - 2)

    def _rendered(self, images: int, question: str, answer: str | None) -> str:
        if self.template is None:
            return f"{question}\n{answer or ''}"
        return _render(self.template, images, question, answer)


def budget_for(model: str) -> Budget:
    """The way of counting of a checkpoint folder, a hub id or a model name.

    Raises:
        ModelError: nothing is known of such a model, or the checkpoint's files are damaged.
    """
    folder = find_checkpoint(model)
    if folder is None:
        shape = next((shape for pattern, shape in SHAPES.items() if re.search(pattern, model.lower())), None)
        return Budget(model, known(model), None, shape)
    config = _json(folder / "config.json")
    processor = {**_json(folder / "preprocessor_config.json"), **_json(folder / "processor_config.json")}
    processor = {**processor, **processor.pop("image_processor", {})}
    text = _text_config(config)
    tokenizer = folder / "tokenizer.json"
    budget = Budget(
        model,
        Fixed(tokens=0),
        text.get("max_position_embeddings"),
        _shape(folder, config, text),
        Tokenizer.from_file(str(tokenizer)) if tokenizer.is_file() else None,
        _template(folder, processor),
    )
    family = from_checkpoint(config, processor)
    if family is None:
        try:
            family = ByProcessor(folder, lambda images, question: budget.text_tokens([(images, question, None)])[0])
        except ModelError as error:
            raise ModelError(f"--model {model} ({config.get('model_type')}): {error}") from error
        budget = budget._replace(added=family.added if budget.is_exact else 0)
    return budget._replace(image_tokens=family)


def shape_of(folder: Path) -> Shape | None:
    """The shape of a checkpoint folder's model, from its configuration and its files' headers; ``None`` if unknown."""
    config = _json(folder / "config.json")
    return _shape(folder, config, _text_config(config))


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("text_config") or config.get("llm_config") or config


def find_checkpoint(model: str) -> Path | None:
    """The folder of a checkpoint: ``model`` itself, or its snapshot in the hub's local cache; nothing is downloaded.

    Raises:
        ModelError: there is such a folder, and it holds no checkpoint.
    """
    folder = Path(model)
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        raise ModelError(
            f"--model {model}: expected a checkpoint folder, found no config.json in it; name its parent or child"
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, "config.json")
        return Path(cached).parent if isinstance(cached, str) else None
    return None


def known(name: str) -> ImageTokens:
    """How a model of this name counts, as published.

    Raises:
        ModelError: the name is of no known family.
    """
    if re.search(r"llava-?_?(onevision|ov)-?_?1[._]5", name.lower()):  # native resolution, unlike LLaVA-OneVision
        raise ModelError(
            f"--model {name}: expected a checkpoint folder, found a name whose image settings are not known"
        )
    for pattern, family in FAMILIES.items():
        if re.search(pattern, name.lower()):
            return family
    listed = "mini, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL, LLaVA-OneVision, LLaVA-1.5, Idefics3, SmolVLM"
    raise ModelError(
        f"--model {name}: expected a checkpoint folder or a name with one of {listed} in it, found neither"
    )


def from_checkpoint(config: Mapping[str, Any], processor: Mapping[str, Any]) -> ImageTokens | None:
    """How a checkpoint counts, from its ``config.json`` and its processor's settings (both merged into one mapping).

    ``None`` where the model's type is not among the known ones.
    """
    size = processor.get("size") or {}
    match config.get("model_type"):
        case "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl":
            return Grid(
                patch=processor.get("patch_size", 14),
                merge=processor.get("merge_size", 2),
                min_pixels=processor.get("min_pixels") or size.get("shortest_edge", 56 * 56),
                max_pixels=processor.get("max_pixels") or size.get("longest_edge", 28 * 28 * 1280),
            )
        case "internvl":
            return Tiles(
                side=size.get("height", 448),
                tokens=processor.get("image_seq_length", config.get("image_seq_length", 256)),
                max_tiles=processor.get("max_patches", 12),
            )
        case "internvl_chat":
            patches = config.get("force_image_size", 448) // config.get("vision_config", {}).get("patch_size", 14)
            tokens = int(patches**2 * config.get("downsample_ratio", 0.5) ** 2)
            return Tiles(
                side=config.get("force_image_size", 448), tokens=tokens, max_tiles=config.get("max_dynamic_patch", 12)
            )
        case "llava_onevision":
            default = AnyRes()
            points = processor.get("image_grid_pinpoints") or config.get("image_grid_pinpoints") or default.pinpoints
            return AnyRes(
                side=min(size.values(), default=384),
                patches=math.isqrt(processor.get("num_image_tokens") or 729),
                max_tiles=int(config.get("vision_aspect_ratio", "anyres_max_9").rpartition("_")[2]),
                pinpoints=tuple((height, width) for height, width in points),
            )
        case "idefics3" | "smolvlm":
            return Splits(
                longest=size.get("longest_edge", 1456),
                side=(processor.get("max_image_size") or {}).get("longest_edge", 364),
                tokens=processor.get("image_seq_len", 169),
            )
        case "llava" | "fast_vlm" if config.get("vision_config", {}).get("model_type") != "pixtral":  # which has grids
            return _fixed(config, processor)
        case _:
            return None


def limited(
    family: ImageTokens,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    max_dynamic_patch: int | None = None,
) -> ImageTokens:
    """The same way of counting under limits of one's own.

    Raises:
        SettingsError: the model knows no such limit.
    """
    pixels = {
        name: value for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)) if value is not None
    }
    if pixels:
        if not isinstance(family, Grid):
            raise SettingsError(
                "--max_pixels and --min_pixels limit Qwen-VL's grids; this model has none, leave them out"
            )
        family = Grid(**{**family.model_dump(), **pixels})
    if max_dynamic_patch is not None:
        if not isinstance(family, Tiles):
            raise SettingsError("--max_dynamic_patch limits InternVL's tiles; this model has none, leave it out")
        family = Tiles(**{**family.model_dump(), "max_tiles": max_dynamic_patch})
    return family


def memory(shape: Shape, longest: int, training: Training) -> Memory:
    """What training needs by ``MEMORY_FORMULA``, in bytes.

    Against TRL's trainer on one H100 (Qwen2-VL-7B, LoRA r=16 on all decoder linears, bfloat16, 812 tokens a row:
    41.0 GB at batch 4, 64.7 GB at batch 8, 28.3 GB at batch 16 with checkpointing) it is within 10 %. The eight
    hidden widths of a block are its residual stream, the normalisations' inputs in float32 and outputs, queries and
    the attention's output; the five intermediate ones gate, up, activation, product and the copy that a low-rank
    update takes of it.

    Args:
        shape: the model.
        longest: tokens of the longest row.
        training: batch size or tokens, LoRA rank, checkpointing, GPUs, quantization.

    With several GPUs it is the memory of each.
    """
    whole = shape.weight_bytes * (8 * shape.hidden + 2 * shape.key_value + 5 * shape.intermediate)
    kept = shape.layers * shape.weight_bytes * shape.hidden + whole if training.checkpointing else shape.layers * whole
    logits = 2 * shape.weight_bytes * shape.vocabulary
    if training.lora_rank:
        state = 16 * shape.lora_parameters(training.lora_rank)
    else:
        state = (16 - shape.weight_bytes) * shape.parameters
    tokens = training.batch_size * longest if training.batch_tokens is None else max(training.batch_tokens, longest)
    weights = stored_bytes(shape, training.quantization)
    return Memory(
        weights=-(-weights // training.gpus),
        gathered=2 * weights // shape.layers if training.gpus > 1 else 0,
        state=-(-state // training.gpus),
        activations=tokens * (kept + logits),
        longest=longest,
        training=training,
    )


def stored_bytes(shape: Shape, quantization: Quantization | None) -> int:
    """Bytes of all weights of a model; bitsandbytes leaves embedding, head and joined experts in their own type.

    A block of 64 weights in nf4 has a scale of one byte, and 256 scales have one of 4 bytes (double quantization,
    QLoRA section 3).
    """
    if quantization is None:
        return shape.weight_bytes * shape.parameters
    whole = min(2 * shape.vocabulary * shape.hidden + shape.experts, shape.parameters)
    each = 0.5 + (1 + 4 / 256) / 64 if quantization == "nf4" else 1
    return int(shape.weight_bytes * whole + each * (shape.parameters - whole))


def estimate(text: str) -> int:
    """Tokens of a text for want of a tokenizer: one for four ASCII characters, one for each other character."""
    plain = len(text.encode("ascii", "ignore"))
    return math.ceil(plain / CHARACTERS_A_TOKEN) + len(text) - plain


def _fixed(config: Mapping[str, Any], processor: Mapping[str, Any]) -> Fixed:
    """As LLaVA's processor counts.

    Patches of the scaled image, one more for a class token, which "default" leaves out.
    """
    crop = processor.get("crop_size") or processor.get("size") or {}
    if not isinstance(crop, Mapping):
        crop = {"height": crop, "width": crop}
    side = crop.get("height") or crop.get("shortest_edge") or config.get("vision_config", {}).get("image_size", 336)
    patch = processor.get("patch_size") or config.get("vision_config", {}).get("patch_size", 14)
    tokens = (side // patch) ** 2 + processor.get("num_additional_image_tokens", 0)
    return Fixed(tokens=tokens - (processor.get("vision_feature_select_strategy") == "default"))


def _shape(folder: Path, config: Mapping[str, Any], text: Mapping[str, Any]) -> Shape | None:
    """Shape of a checkpoint; its weights are counted in their files' headers."""
    files = sorted(folder.glob("*.safetensors"))
    parameters = sum(weights_in(file) for file in files)
    heads = text.get("num_attention_heads") or 1
    wanted = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
    if not parameters or any(not text.get(name) for name in wanted):
        return None
    head = text.get("head_dim") or text["hidden_size"] // heads
    precision = str(
        text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype") or "float32"
    )
    return Shape(
        parameters=parameters,
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        key_value=(text.get("num_key_value_heads") or heads) * head,
        intermediate=text["intermediate_size"],
        vocabulary=text["vocab_size"],
        weight_bytes=2 if "16" in precision else 4,
        experts=sum(weights_in(file, EXPERTS) for file in files),
    )


def weights_in(file: Path, named: str = "") -> int:
    """Number of weights in a safetensors file: its header is a length of eight bytes and so much JSON.

    Only tensors with ``named`` in their names count.
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(
        math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__" and named in name
    )


def _template(folder: Path, processor: Mapping[str, Any]) -> jinja2.Template | None:
    """The chat template, compiled in the sandbox that transformers uses, since checkpoints come from strangers."""
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else processor.get("chat_template")
    source = source or _json(folder / "chat_template.json").get("chat_template")
    source = source or _json(folder / "tokenizer_config.json").get("chat_template")
    if not isinstance(source, str):
        return None
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    source = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", source)  # marks the answer for the loss; prints nothing
    try:
        template = environment.from_string(source)
        _render(template, 2, "?", "!")
    except (
        jinja2.TemplateError,
        TypeError,
    ):  # a template for texts only, or one that needs transformers' own functions
        return None
    return template


def _render(template: jinja2.Template, images: int, question: str, answer: str | None, *, further: int = 0) -> str:
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": question}]
    turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if answer is not None:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    turns += further * [{"role": "user", "content": [{"type": "text", "text": question}]}, turns[-1]]
    text = template.render(messages=turns, add_generation_prompt=answer is None)
    for mark in IMAGE_MARKS:
        text = text.replace(mark, "")
    return text


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(f"{file}: expected JSON, found a fault ({error}); fetch the checkpoint again") from error
    return values if isinstance(values, dict) else {}
