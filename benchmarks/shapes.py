"""Checkpoints of published shapes with random weights: speed and memory of training do not depend on the weights' values.

The tokenizer is made on the spot, a token a byte, so that a text of 250 letters has 250 tokens; the vocabulary, which costs time and memory, keeps
its published size (``architectures``). The ``tiny-`` shapes are the same architectures at toy size.

    CACHE/shape-NAME-<version>/  config.json  model-*.safetensors  processor_config.json ...
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.architectures import SHAPES, SPECIAL
from mis_lib.cache import cache_dir, made_once
from mis_lib.errors import MissingPackageError, ModelError, SettingsError

FORMAT = 1  # raise when the way of making changes


def write_shape(name: str, folder: Path, *, device: str = "cpu", dtype: str = "bfloat16") -> Path:
    """Write a checkpoint of random weights, ordinary but for its values; returns its folder.

    Args:
        name: a key of ``SHAPES``.
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

    if name not in SHAPES:
        raise SettingsError(f"unknown shape {name!r}; known: {', '.join(SHAPES)}")
    tokenizer = _tokenizer()
    processor = _processor(name, tokenizer)
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForImageTextToText.from_config(
            SHAPES[name].config(len(tokenizer)), dtype=getattr(torch, dtype)
        )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    try:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    except OSError as error:
        raise _unwritable(name, folder, error) from error
    return folder


def ensure_shape(name: str, *, device: str, progress: Callable[[str], None] = lambda message: None) -> Path:
    """The cached checkpoint of a shape, written on first use.

    Raises:
        MisError: as ``write_shape``; or the cache cannot be written.
    """
    folder = cache_dir() / f"shape-{name}-bfloat16-{FORMAT}"
    try:
        return made_once(
            folder,
            lambda work: write_shape(name, work, device=device),
            progress,
            is_whole=lambda found: (found / "config.json").exists(),
        )
    except OSError as error:
        raise _unwritable(name, folder, error) from error


def _unwritable(name: str, folder: Path, error: OSError) -> ModelError:
    return ModelError(f"writing {name} to {folder} failed: {error}; 8 B parameters take 16 GB of disk")


def _processor(name: str, tokenizer: Any) -> Any:
    try:
        return SHAPES[name].processor(tokenizer)
    except (ImportError, AttributeError) as error:  # without torchvision, video processors are placeholders
        raise MissingPackageError(
            f'the processor of {name} needs torchvision, which is not installed or does not fit torch: pip install "mis-workbench[vlm]"'
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
