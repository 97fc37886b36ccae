"""Memory: what training needs on the device, by a formula that is shown with its result.

Against TRL's trainer on one H100 (Qwen2-VL-7B, LoRA r=16 on all decoder linears, bfloat16, 812 tokens a row: 41.0 GB at batch 4, 64.7 GB at batch 8,
28.3 GB at batch 16 with checkpointing) it is within 10 %. The eight hidden widths of a block are its residual stream, the
normalisations' inputs in float32 and outputs, queries and the attention's output; the five intermediate ones gate, up, activation, product and the
copy that a low-rank update takes of it.
"""

from collections.abc import Mapping

from mis_lib.settings import Settings

MEMORY_FORMULA = (
    "weights (parameters x bytes) + training state (LoRA: 16 bytes a trained weight; full: 16 bytes a weight in all) + batch x longest row x "
    "(layers x bytes x (8 hidden + 2 key/value + 5 intermediate) + 2 x bytes x vocabulary); with checkpointing only hidden a layer and one "
    "whole layer; without the frozen vision tower's passing use (under 2 %) and the allocator's slack (5-10 %)"
)


class Shape(Settings):
    """What a memory estimate needs to know of a model."""

    parameters: int
    hidden: int
    layers: int
    key_value: int
    intermediate: int
    vocabulary: int
    weight_bytes: int = 2

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
    r"qwen-?2-?vl-2b": Shape(parameters=2_210_000_000, hidden=1536, layers=28, key_value=256, intermediate=8960, vocabulary=151936),
    r"qwen-?2\.5-?vl-3b": Shape(parameters=3_750_000_000, hidden=2048, layers=36, key_value=256, intermediate=11008, vocabulary=151936),
    r"internvl-?2[._]5-8b": Shape(parameters=8_080_000_000, hidden=4096, layers=32, key_value=1024, intermediate=14336, vocabulary=92553),
    r"llava-?_?(onevision|ov).*7b": Shape(parameters=8_030_000_000, **_QWEN2_7B),
    r"idefics-?3-8b": Shape(parameters=8_460_000_000, hidden=4096, layers=32, key_value=1024, intermediate=14336, vocabulary=128259),
    r"smolvlm2?-256m": Shape(parameters=256_000_000, hidden=576, layers=30, key_value=192, intermediate=1536, vocabulary=49280),
    r"smolvlm2?-500m": Shape(parameters=507_000_000, hidden=960, layers=32, key_value=320, intermediate=2560, vocabulary=49280),
}  # fmt: skip


class Training(Settings):
    """How it will be trained, as far as memory depends on it."""

    batch_size: int = 1
    lora_rank: int = 16
    """0: all weights are trained."""
    checkpointing: bool = False


class Memory(Settings):
    """A memory estimate in bytes, term by term."""

    weights: int
    state: int
    activations: int
    longest: int
    """Tokens of the longest row, to which its batch is padded."""
    training: Training

    @property
    def total(self) -> int:
        """All terms."""
        return self.weights + self.state + self.activations


def memory(shape: Shape, longest: int, training: Training) -> Memory:
    """What training needs by ``MEMORY_FORMULA``, in bytes.

    Args:
        shape: the model.
        longest: tokens of the longest row.
        training: batch size, LoRA rank, checkpointing.
    """
    whole = shape.weight_bytes * (8 * shape.hidden + 2 * shape.key_value + 5 * shape.intermediate)
    kept = shape.layers * shape.weight_bytes * shape.hidden + whole if training.checkpointing else shape.layers * whole
    logits = 2 * shape.weight_bytes * shape.vocabulary
    if training.lora_rank:
        state = 16 * shape.lora_parameters(training.lora_rank)
    else:
        state = (16 - shape.weight_bytes) * shape.parameters
    return Memory(
        weights=shape.weight_bytes * shape.parameters,
        state=state,
        activations=training.batch_size * longest * (kept + logits),
        longest=longest,
        training=training,
    )
