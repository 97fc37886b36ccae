"""Loss at answer positions only: the vocabulary is never computed at image, question or padding tokens.

A row of two images and 250 answer tokens has 800 tokens, and logits over 150,000 words in float32 are 0.6 MB a token: for most of them nobody asks. While
``AnswerHead`` is armed, a model's output layer picks the positions that count, and returns their loss instead of logits. So every
architecture's own ``forward`` stays as it is, and sharded weights are gathered by the hooks that gather them anyway.

Legend: B rows, T tokens, H width, V vocabulary, N positions that count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from mis_lib.errors import ModelError
from mis_lib.train.encode import IGNORED

CHUNK = 1024
"""Positions whose logits exist at the same time."""


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of ``hidden @ weight.T`` without ever holding the logits of all positions.

    The gradients are computed with the loss, chunk by chunk, while a chunk's logits are there, and only scaled on the way back (Hsu et al. 2024, Liger
    kernel, section 3.2); here in plain torch, so that it runs anywhere. Nothing of the weight is kept, so it may be sharded again meanwhile.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The sum, and for the log, without gradient, each position's loss (N,) and whether it was predicted right (N,).

        Args:
            ctx: autograd's.
            hidden: (N, H).
            weight: (V, H).
            targets: (N,) token ids.
        """
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        hits = torch.empty_like(targets, dtype=torch.bool)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        for start in range(0, len(hidden), CHUNK):
            part = slice(start, start + CHUNK)
            logits, chosen = F.linear(hidden[part], weight).float(), targets[part]
            losses[part] = F.cross_entropy(logits, chosen, reduction="none")
            hits[part] = logits.argmax(-1) == chosen
            if wants_hidden or wants_weight:
                slope = logits.softmax(-1)
                slope[torch.arange(len(chosen), device=chosen.device), chosen] -= 1
                slope = slope.to(weight.dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = slope @ weight
                if grad_weight is not None:
                    grad_weight += slope.T @ hidden[part]
        ctx.grads = grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)
        ctx.mark_non_differentiable(losses, hits)
        return losses.sum(), losses, hits

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """Gradients of hidden states and weight."""
        scale = grads[0]
        found = [None if grad is None else grad * scale.to(grad.dtype) for grad in ctx.grads]
        return found[0], found[1], None


class Losses(NamedTuple):
    """What the armed head says of one pass."""

    total: torch.Tensor
    """() summed loss; gradients flow from here."""
    each: torch.Tensor
    """(N,) loss of each position that counts, in the order of rows and tokens."""
    hits: torch.Tensor
    """(N,) whether each was predicted right."""


class AnswerHead:
    """A model's output layer that, while it is armed, computes losses at chosen positions.

    Args:
        network: a transformers model (not its ``PeftModel``).

    Raises:
        ModelError: the model's output layer is no linear layer without bias, or the model changes what comes out of it.
    """

    def __init__(self, network: Any) -> None:
        head = network.get_output_embeddings()
        if not isinstance(head, nn.Linear) or head.bias is not None:
            raise ModelError(
                f"expected an output layer that is linear without bias, found {type(head).__name__}; such a model cannot be trained here"
            )
        _check_untouched(network, head)
        self.head = head
        self._plain = head.forward
        self._labels: torch.Tensor | None = None
        self._losses: Losses | None = None
        setattr(head, "forward", self._forward)  # noqa: B010  (modules of torch are typed to have a fixed one)

    @contextmanager
    def armed(self, labels: torch.Tensor) -> Iterator[None]:
        """While the block lasts, a forward pass computes the losses of the labels (B, T) that count, and its ``logits`` are their sum."""
        self._labels, self._losses = labels, None
        try:
            yield
        finally:
            self._labels = None

    @property
    def losses(self) -> Losses:
        """Of the last armed pass.

        Raises:
            ModelError: there was none, or the model has another output layer than it says.
        """
        if self._losses is None:
            raise ModelError(
                "expected the model to call its output layer in an armed pass, found that it did not; it cannot be trained here"
            )
        return self._losses

    def _forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._labels is None:
            return self._plain(hidden)
        wanted = self._labels[:, 1:] != IGNORED
        picked, weight = hidden[:, :-1][wanted], self.head.weight
        if torch.is_autocast_enabled(hidden.device.type):
            weight = weight.to(torch.get_autocast_dtype(hidden.device.type))
        found: Any = LinearCrossEntropy.apply(picked.to(weight.dtype), weight, self._labels[:, 1:][wanted])
        self._losses = Losses(*found)
        return self._losses.total


def _check_untouched(network: Any, head: nn.Linear) -> None:
    """Refuse models that scale or cap logits behind the output layer: the loss would be that of other logits. Tried on a text of two tokens.

    Raises:
        ModelError: the model's logits are not its output layer's.
    """
    given: list[torch.Tensor] = []

    def keep(layer: Any, args: Any, output: Any) -> None:
        given.append(output)

    hook = head.register_forward_hook(keep)
    training = network.training
    network.eval()  # no dropout, and no running means that would learn of it
    try:
        with torch.no_grad():
            logits = network(
                input_ids=torch.ones(1, 2, dtype=torch.long, device=head.weight.device), use_cache=False
            ).logits
    finally:
        hook.remove()
        network.train(training)
    # numbers that are none are equal: under FSDP only the main process has read the weights
    if given and not torch.allclose(given[-1].float(), logits.float(), rtol=0, atol=0, equal_nan=True):
        raise ModelError(
            f"expected logits that are the output layer's own, found that {type(network).__name__} scales or caps them; it cannot be trained here"
        )


class WholeHead(AnswerHead):
    """The same losses from logits at every position, as most trainers compute them: what ``contest`` measures the other way against."""

    def _forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._labels is None:
            return self._plain(hidden)
        logits, targets = self._plain(hidden)[:, :-1].float(), self._labels[:, 1:]
        wanted = targets != IGNORED
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
        each = each.view_as(targets)[wanted]
        self._losses = Losses(each.sum(), each.detach(), (logits.argmax(-1) == targets)[wanted])
        return self._losses.total
