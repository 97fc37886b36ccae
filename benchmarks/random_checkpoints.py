"""Checkpoints with random weights in the shapes of published ones.

Speed and memory do not depend on the weights' values.

``CHECKPOINTS`` has the published sizes (OpenGVLab/InternVL2_5-8B in the layout of transformers,
Qwen/Qwen2-VL-7B-Instruct) and the same architectures at toy size (``tiny-``). The tokenizer has a token a byte, so a
text of 250 letters has 250 tokens. The vocabulary keeps its published size, because it costs time and memory.

    CACHE/shape-NAME-<version>/  config.json  model-*.safetensors  processor_config.json ...
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.cache import cache_dir, made_once
from mis_lib.errors import MissingPackageError, ModelError, SettingsError
from mis_lib.models.mini.assemble import CHAT_TEMPLATE

SPECIAL = ("<pad>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", "<img>", "</img>")


class RandomCheckpoint(NamedTuple):
    """One architecture and size: what it is called elsewhere, and how configuration and processor are made."""

    about: str
    config: Callable[[int], Any]
    """From the vocabulary's least size."""
    processor: Callable[[Any], Any]
    """From the tokenizer."""


def _internvl(vision: Mapping[str, int], text: Mapping[str, int]) -> Callable[[int], Any]:
    def config(vocabulary: int) -> Any:
        from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig

        size = max(vocabulary, text.get("vocab_size", 0))
        make: Any = LlamaConfig
        return InternVLConfig(
            vision_config=InternVLVisionConfig(**vision),  # pyright: ignore[reportArgumentType]
            text_config=make(
                **{**text, "vocab_size": size}, **_ENDS, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
            ),
            tie_word_embeddings=False,
            image_token_id=SPECIAL.index("<image>"),
            image_seq_length=(
                256 if vision["image_size"] == 448 else (vision["image_size"] // vision["patch_size"] // 2) ** 2
            ),
        )  # fmt: skip

    return config


def _internvl_processor(side: int, tokens: int) -> Callable[[Any], Any]:
    def make(tokenizer: Any) -> Any:
        from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

        images: Any = GotOcr2ImageProcessor
        videos: Any = InternVLVideoProcessor
        size = {"height": side, "width": side}
        return InternVLProcessor(
            image_processor=images(size=size, crop_to_patches=True, min_patches=1, max_patches=6),
            tokenizer=tokenizer,
            video_processor=videos(size=size),
            image_seq_length=tokens,
            chat_template=CHAT_TEMPLATE,
        )

    return make


def _qwen2_vl(vision: Mapping[str, int], text: Mapping[str, Any]) -> Callable[[int], Any]:
    def config(vocabulary: int) -> Any:
        from transformers import Qwen2VLConfig

        make: Any = Qwen2VLConfig
        size = max(vocabulary, text.get("vocab_size", 0))
        return make(
            vision_config=dict(vision),
            text_config={**text, "vocab_size": size, **_ENDS},
            image_token_id=SPECIAL.index("<image>"),
            video_token_id=SPECIAL.index("<video>"),
            vision_start_token_id=SPECIAL.index("<img>"),
            vision_end_token_id=SPECIAL.index("</img>"),
        )

    return config


def _qwen2_vl_processor(tokenizer: Any) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    images: Any = Qwen2VLImageProcessor
    videos: Any = Qwen2VLVideoProcessor
    template = CHAT_TEMPLATE.replace("<image>", "<img><image></img>")
    return Qwen2VLProcessor(
        image_processor=images(), tokenizer=tokenizer, video_processor=videos(), chat_template=template
    )


def _llava(vision: Mapping[str, int], text: Mapping[str, int]) -> Callable[[int], Any]:
    def config(vocabulary: int) -> Any:
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

        make: Any = LlavaConfig
        image = SPECIAL.index("<image>")
        language: Any = LlamaConfig
        return make(
            vision_config=CLIPVisionConfig(**vision),  # pyright: ignore[reportArgumentType]
            text_config=language(**{**text, "vocab_size": vocabulary}, **_ENDS),
            image_token_index=image,
            image_token_id=image,
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
            image_seq_length=(vision["image_size"] // vision["patch_size"]) ** 2 + 1,
        )

    return config


def _llava_processor(side: int, patch: int) -> Callable[[Any], Any]:
    def make(tokenizer: Any) -> Any:
        from transformers import LlavaProcessor
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        square = {"height": side, "width": side}
        return LlavaProcessor(
            image_processor=CLIPImageProcessorPil(size=square, crop_size=square, do_center_crop=False),
            tokenizer=tokenizer,
            patch_size=patch,
            vision_feature_select_strategy="full",
            num_additional_image_tokens=1,
            image_token="<image>",
            chat_template=CHAT_TEMPLATE,
        )

    return make


_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


_TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


_TINY_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


CHECKPOINTS: Mapping[str, RandomCheckpoint] = {
    "internvl2_5-8b": RandomCheckpoint(
        "InternVL2.5-8B: InternViT-300M at 448 px, InternLM2.5-7B (a Llama in transformers' layout)",
        _internvl(
            {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
             "image_size": 448, "patch_size": 14},
            {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 8, "vocab_size": 92553, "max_position_embeddings": 32768},
        ),
        _internvl_processor(448, 256),
    ),
    "qwen2-vl-7b": RandomCheckpoint(
        "Qwen2-VL-7B: its 675 M tower on grids, Qwen2-7B with M-RoPE",
        _qwen2_vl(
            {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14},
            {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
             "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768,
             "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}},
        ),
        _qwen2_vl_processor,
    ),
    "tiny-llava": RandomCheckpoint(
        "LLaVA at toy size",
        _llava({**_TINY_TOWER, "image_size": 28, "patch_size": 14}, _TINY_TEXT),
        _llava_processor(28, 14),
    ),
    "tiny-internvl": RandomCheckpoint(
        "InternVL at toy size",
        _internvl({**_TINY_TOWER, "image_size": 56, "patch_size": 14}, _TINY_TEXT),
        _internvl_processor(56, 4),
    ),
    "tiny-qwen2-vl": RandomCheckpoint(
        "Qwen2-VL at toy size",
        _qwen2_vl(
            {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14},
            {**_TINY_TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}},
        ),
        _qwen2_vl_processor,
    ),
}  # fmt: skip


FORMAT = 1  # raise when the way of making changes


def write_checkpoint(name: str, folder: Path, *, device: str = "cpu", dtype: str = "bfloat16") -> Path:
    """Write a checkpoint of random weights, ordinary but for its values; returns its folder.

    Args:
        name: a key of ``CHECKPOINTS``.
        folder: new, or empty.
        device: where the weights are drawn: 8 B of them take minutes on a CPU and seconds on a GPU.
        dtype: of the weights.

    Raises:
        SettingsError: there is no such shape.
        MissingPackageError: the processor needs torchvision.
        ModelError: the disk is full.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    if name not in CHECKPOINTS:
        raise SettingsError(f"unknown shape {name!r}; known: {', '.join(CHECKPOINTS)}")
    tokenizer = _tokenizer()
    processor = _processor(name, tokenizer)
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForImageTextToText.from_config(
            CHECKPOINTS[name].config(len(tokenizer)), dtype=getattr(torch, dtype)
        )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    try:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    except OSError as error:
        raise _unwritable(name, folder, error) from error
    return folder


def ensure_checkpoint(name: str, *, device: str, progress: Callable[[str], None] = lambda message: None) -> Path:
    """The cached checkpoint of a shape, written on first use.

    Raises:
        MisError: as ``write_checkpoint``; or the cache cannot be written.
    """
    folder = cache_dir() / f"shape-{name}-bfloat16-{FORMAT}"
    try:
        return made_once(
            folder,
            lambda work: write_checkpoint(name, work, device=device),
            progress,
            is_whole=lambda found: (found / "config.json").exists(),
        )
    except OSError as error:
        raise _unwritable(name, folder, error) from error


def _unwritable(name: str, folder: Path, error: OSError) -> ModelError:
    return ModelError(f"writing {name} to {folder} failed: {error}; 8 B parameters take 16 GB of disk")


def _processor(name: str, tokenizer: Any) -> Any:
    try:
        return CHECKPOINTS[name].processor(tokenizer)
    except (ImportError, AttributeError) as error:  # without torchvision, video processors are placeholders
        raise MissingPackageError(
            f"the processor of {name} needs torchvision, which is not installed or does not fit torch: "
            'pip install "mis-workbench[vlm]"'
        ) from error


def _tokenizer() -> Any:
    """A token a byte, and the special tokens of all shapes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: at for at, sign in enumerate([*SPECIAL, *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        additional_special_tokens=[*SPECIAL[3:]],
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<image>",
            "image_token": "<image>",
            "video_token": "<video>",
        },
    )
