"""Packed rows: rows behind each other in one long row, of which none sees another and each counts its positions from zero.

Everything but attention treats tokens one by one, so packing leaves out all padding there. Attention gets ``packed_rows``, which tells where each row
lies: on a GPU it goes to torch's kernel for rows of different lengths, elsewhere one row is attended to after the other.
Models are reached through transformers' registry of attention functions; nothing of theirs is replaced, and without ``packed_rows`` (when the model answers
in an evaluation) the function is plain scaled-dot-product attention.

Legend: N tokens of all rows, R rows, T tokens of one row, A heads, K key heads, D width of a head.
"""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from mis_lib.train.collate import Batch

ATTENTION = "mis_packed"


class PackedRows(NamedTuple):
    """Where each row lies among the packed tokens."""

    starts: torch.Tensor
    """(R + 1,) first token of each row, and N."""
    lengths: tuple[int, ...]
    """(R,) tokens of each row."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> "PackedRows":
        """The places of rows of these lengths."""
        starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return cls(starts.to(device), tuple(lengths))


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
    """Causal attention within each packed row; ``query`` is (1, A, N, D), key and value are (1, K, N, D); returns (1, N, A, D)."""
    if packed_rows is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return output, None
    if query.is_cuda and dropout == 0.0 and query.dtype in (torch.bfloat16, torch.float16):
        return _by_kernel(query, key, value, packed_rows, scaling), None
    return _row_by_row(query, key, value, packed_rows, scaling, dropout), None


def _by_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: PackedRows, scaling: float | None
) -> torch.Tensor:
    """Flash attention over rows of different lengths."""
    from torch.nn.attention.varlen import varlen_attn

    longest = max(rows.lengths)
    found: Any = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        rows.starts,
        rows.starts,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found[None]


def _row_by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: PackedRows,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Causal attention within one row after the other: no scores for padding, and those of one row still lie in a CPU's cache when they are used."""
    lengths = list(rows.lengths)
    parts = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    if query.is_cuda or dropout:
        grouped = query.shape[1] != key.shape[1]
        found = [
            F.scaled_dot_product_attention(*part, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=grouped)
            for part in parts
        ]
    else:
        found = [_plainly(*part, scaling) for part in parts]
    return torch.cat(found, 2).transpose(1, 2)


def _plainly(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """Causal attention as products and a softmax, (1, A, T, D): on a CPU, torch's fused kernel is slow on the way back."""
    query = query.unflatten(1, (key.shape[1], -1))  # (1, K, A / K, T, D): heads that share a key
    scores = query @ key[:, :, None].transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
    scores = scores.masked_fill(later, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    return (weights @ value[:, :, None]).flatten(1, 2)


def no_packing(network: Any) -> str | None:
    """Why a model's rows cannot be packed, or ``None`` if they can."""
    text = network.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"its layers do not all attend to everything before them ({', '.join(sorted(kinds))})"
    if getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True):
        return "its attention looks back through a window only"
    if not getattr(network, "_supports_attention_backend", False):
        return "its attention cannot be chosen from outside"
    return None


def pack(network: Any) -> None:
    """Let a model's language part attend by ``packed_attention``; its vision tower keeps its own.

    Raises:
        ValueError: transformers does not know such a part.
    """
    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    network.config.get_text_config()._attn_implementation = ATTENTION


def packed_inputs(network: Any, batch: Batch) -> dict[str, Any]:
    """What a pass over a packed batch reads besides its tokens: positions of each row from zero, and where each row lies.

    The mask is a stand-in of four dimensions: transformers hands such a mask on as it is, instead of making one of N x N.
    """
    lengths = [len(row) for row in batch.rows]
    ids = batch.inputs["input_ids"]
    return {
        "position_ids": positions(network, batch),
        "packed_rows": PackedRows.of(lengths, ids.device),
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
    }


def positions(network: Any, batch: Batch) -> torch.Tensor:
    """Position of each token in its own row: (1, N), or (3, 1, N) where the model counts time, height and width apart (M-RoPE)."""
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
