"""Packed rows: rows concatenated to one long row; none attends to another, and each counts positions from zero.

Everything but attention treats tokens one by one, so packing leaves out all padding there. Attention gets
``packed_rows``, the limits of each row: on a GPU they go to torch's kernel for rows of different lengths, elsewhere the
rows are padded for the attention alone. Where ``attention`` is a package's flash attention, the decoder gets the limits
in that package's arguments. Models are reached through transformers' registry of attention
functions; nothing of theirs is replaced, and without ``packed_rows`` (when the model answers in an evaluation) the
function is plain scaled-dot-product attention.

Legend: N tokens of all rows, R rows, T tokens of the longest row, A heads, K key heads, D width of a head.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from mis_lib.train.batches import Batch

ATTENTION = "mis_packed"
FLASH = "flash_attention"


class PackedRows(NamedTuple):
    """Where each row lies among the packed tokens."""

    starts: torch.Tensor
    """(R + 1,) first token of each row, and N."""
    longest: int
    below: torch.Tensor
    """(R, T) index of the packed token that stands there when rows are put below each other; N where there is none."""
    above: torch.Tensor
    """(N,) index into the R x T tokens of each packed one."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> "PackedRows":
        """The places of rows of these lengths."""
        starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        longest, total = max(lengths), int(starts[-1])
        offsets = torch.arange(longest)
        there = offsets[None] < torch.tensor(lengths)[:, None]
        below = torch.where(there, starts[:-1, None].long() + offsets[None], total)
        above = there.flatten().nonzero().flatten()
        return cls(starts.to(device), longest, below.to(device), above.to(device))


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed_rows: PackedRows | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each packed row: query (1, A, N, D), key and value (1, K, N, D) to (1, N, A, D)."""
    if packed_rows is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return output, None
    if dropout == 0.0 and query.dtype in (torch.bfloat16, torch.float16) and has_kernel(query.device):
        return _varlen(query, key, value, packed_rows, scaling), None
    return _padded(query, key, value, packed_rows, scaling, dropout), None


def has_kernel(device: torch.device) -> bool:
    """Whether the device runs flash attention, which NVIDIA's do from Ampere on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: PackedRows, scaling: float | None
) -> torch.Tensor:
    """Flash attention over rows of different lengths."""
    from torch.nn.attention.varlen import varlen_attn

    found: Any = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        rows.starts,
        rows.starts,
        rows.longest,
        rows.longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found[None]


def _padded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: PackedRows,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Attention with the rows below each other: causality keeps the padding behind a row out of it."""
    spread = [_spread(states, rows) for states in (query, key, value)]
    if query.is_cuda or dropout:
        found = F.scaled_dot_product_attention(
            *spread, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=query.shape[1] != key.shape[1]
        )  # (R, A, T, D)
    else:
        found = _plainly(spread[0], spread[1], spread[2], scaling)
    return found.transpose(1, 2).flatten(0, 1)[rows.above][None]


def _plainly(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """Causal attention as products and a softmax, (R, A, T, D): on a CPU, the fused kernel's backward is slow."""
    query = query.unflatten(1, (key.shape[1], -1))  # (R, K, A / K, T, D): heads that share a key
    scores = query @ key[:, :, None].transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
    scores = scores.masked_fill(later, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    return (weights @ value[:, :, None]).flatten(1, 2)


def _spread(states: torch.Tensor, rows: PackedRows) -> torch.Tensor:
    """(1, A, N, D) to (R, A, T, D), zeros where a row has ended."""
    tokens = F.pad(states[0].transpose(0, 1), (0, 0, 0, 0, 0, 1))  # (N + 1, A, D)
    return tokens[rows.below].transpose(1, 2)


def no_packing(network: Any) -> str | None:
    """Why a model's rows cannot be packed, where short rows might not show it to ``trial``; ``None`` if they may."""
    text = network.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"its layers do not all attend to everything before them ({', '.join(sorted(kinds))})"
    if getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True):
        return "its attention looks back through a window only"
    if not getattr(network, "_supports_attention_backend", False):
        return "its attention cannot be chosen from outside"
    return None


def pack(network: Any) -> Callable[[], None]:
    """Let a model's decoder attend within packed rows, by ``packed_attention`` or its flash attention.

    The vision tower keeps its attention. Returns what takes it back.

    Raises:
        ValueError: transformers does not know such a part.
    """
    if str(network.config.get_text_config()._attn_implementation).startswith(FLASH):
        return decoder_of(network).register_forward_pre_hook(_for_flash, with_kwargs=True).remove
    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    text = network.config.get_text_config()
    undo = partial(setattr, text, "_attn_implementation", text._attn_implementation)
    text._attn_implementation = ATTENTION
    return undo


def decoder_of(network: Any) -> Any:
    """The language model without its output layer."""
    return network.get_decoder() if hasattr(network, "get_decoder") else network.model.language_model


def _for_flash(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The decoder's arguments in flash attention's terms; the whole model might pass them to its vision tower, too."""
    rows: PackedRows | None = kwargs.pop("packed_rows", None)
    if rows is None:
        return args, kwargs
    starts = {"cu_seq_lens_q": rows.starts, "cu_seq_lens_k": rows.starts}
    longest = {"max_length_q": rows.longest, "max_length_k": rows.longest}
    return args, kwargs | starts | longest | {"attention_mask": None}  # any mask would be taken for one of padding


def packed_inputs(network: Any, batch: Batch) -> dict[str, Any]:
    """Further inputs of a pass over a packed batch: each row's positions from zero, and where each row is.

    The mask is a stand-in of four dimensions: transformers hands such a mask on as it is, instead of making one of N x
    N.
    """
    lengths = [len(row) for row in batch.rows]
    ids = batch.inputs["input_ids"]
    return {
        "position_ids": positions(network, batch),
        "packed_rows": PackedRows.of(lengths, ids.device),
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
    }


def positions(network: Any, batch: Batch) -> torch.Tensor:
    """Position of each token in its row: (1, N), or (3, 1, N) with time, height and width apart (M-RoPE)."""
    inner: Any = network.model
    if not hasattr(inner, "get_rope_index"):
        return torch.cat([torch.arange(len(row), device=batch.labels.device) for row in batch.rows])[None]
    known = inspect.signature(inner.get_rope_index).parameters
    found = []
    for row in batch.rows:
        given = {name: value[None] for name, value in row.per_token.items()} | dict(row.vision)
        given = {name: value for name, value in given.items() if name in known}
        found.append(inner.get_rope_index(row.ids[None], **given)[0])
    return torch.cat(found, dim=-1).to(batch.labels.device)
