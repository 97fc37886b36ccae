"""Loss at answer positions only: the vocabulary is never computed at image, question or padding tokens.

A row of two images and 250 answer tokens has 800 tokens, and logits over 150,000 words in float32 are 0.6 MB a token: for most of them nobody asks. While
``AnswerHead`` is armed, a model's output layer picks the positions that count, and returns their losses instead of logits. So every
architecture's own ``forward`` stays as it is, and sharded weights are gathered by the hooks that gather them anyway.

Legend: B rows, T tokens, H width, V vocabulary, N positions that count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mis_lib.errors import ModelError
from mis_lib.train.rows import IGNORED

CHUNK = 1024
"""Positions whose logits exist at the same time."""


class LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of ``hidden @ weight.T`` without ever holding the logits of all positions.

    The gradients are computed with the loss, chunk by chunk, while a chunk's logits are there (Hsu et al. 2024, Liger kernel, section 3.2), here
    in plain torch so that it runs anywhere. What is returned besides the losses (N,) is whether each position was predicted right (N,).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses (N,) in float32 and hits (N,) of ``hidden`` (N, H), ``weight`` (V, H), ``targets`` (N,)."""
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        hits = torch.empty_like(targets, dtype=torch.bool)
        ctx.chunks = []
        for start in range(0, len(hidden), CHUNK):
            part = slice(start, start + CHUNK)
            logits = F.linear(hidden[part], weight).float()
            chosen = targets[part]
            losses[part] = F.cross_entropy(logits, chosen, reduction="none")
            hits[part] = logits.argmax(-1) == chosen
            if wants_hidden or wants_weight:
                slope = logits.softmax(-1)
                slope[torch.arange(len(chosen), device=chosen.device), chosen] -= 1
                ctx.chunks.append(slope.to(weight.dtype) @ weight if wants_hidden and not wants_weight else slope)
        ctx.frozen = not wants_weight
        ctx.save_for_backward(*(() if ctx.frozen else (hidden, weight)))
        ctx.mark_non_differentiable(hits)
        return losses, hits

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """Gradients of hidden states and weight, each position's scaled by its own loss's gradient."""
        scale = grads[0][:, None]
        if not ctx.chunks:
            return None, None, None
        if ctx.frozen:  # each row of the gradient scales with its own loss
            found = torch.cat(ctx.chunks)
            return found * scale.to(found.dtype), None, None
        hidden, weight = ctx.saved_tensors
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for number, slope in enumerate(ctx.chunks):
            part = slice(number * CHUNK, number * CHUNK + len(slope))
            scaled = (slope * scale[part]).to(weight.dtype)
            grad_hidden[part] = scaled @ weight
            grad_weight += scaled.T @ hidden[part]
        return grad_hidden, grad_weight, None


class AnswerHead:
    """A model's output layer that, while it is armed, computes losses at chosen positions.

    Args:
        network: a transformers model (not its ``PeftModel``).

    Raises:
        ModelError: the model's output layer is no linear layer without bias.
    """

    def __init__(self, network: Any) -> None:
        head = network.get_output_embeddings()
        if not isinstance(head, nn.Linear) or head.bias is not None:
            raise ModelError(
                f"expected an output layer that is linear without bias, found {type(head).__name__}; such a model cannot be trained here"
            )
        self.head = head
        self._plain = head.forward
        self._labels: torch.Tensor | None = None
        self._hits: torch.Tensor | None = None
        head.forward = self._forward

    @contextmanager
    def armed(self, labels: torch.Tensor) -> Iterator[None]:
        """While the block lasts, the model's ``logits`` are losses (N,) at the positions before each label (B, T) that counts."""
        self._labels = labels
        try:
            yield
        finally:
            self._labels = None

    @property
    def hits(self) -> torch.Tensor:
        """Whether each position of the last pass was predicted right, (N,)."""
        if self._hits is None:
            raise ModelError(
                "expected a forward pass of the armed head, found none; the model does not call its output layer"
            )
        return self._hits

    def _forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._labels is None:
            return self._plain(hidden)
        wanted = self._labels[:, 1:] != IGNORED
        picked = hidden[:, :-1][wanted]
        targets = self._labels[:, 1:][wanted]
        weight = self.head.weight
        if torch.is_autocast_enabled(hidden.device.type):
            kind = torch.get_autocast_dtype(hidden.device.type)
            picked, weight = picked.to(kind), weight.to(kind)
        losses, self._hits = LinearCrossEntropy.apply(picked.to(weight.dtype), weight, targets)  # pyright: ignore[reportGeneralTypeIssues]
        return losses
