"""Cross-entropy at answer positions only: logits of image, question and padding tokens are never computed.

A row of two images and 250 answer tokens has 800 tokens, and float32 logits over 150,000 words are 0.6 MB a token.
``LinearCrossEntropyLoss`` takes hidden states and the output layer, and holds the logits of ``CHUNK`` positions at a
time. ``AnswerHead`` calls it where a model calls its output layer, so that every architecture's ``forward`` stays as it
is and FSDP or ZeRO-3 have gathered the weights.

Legend: B rows, T tokens, H width, V vocabulary, N positions with a label.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from torch import nn
from torch.nn import functional as F

from mis_lib.errors import ModelError
from mis_lib.train.encode import IGNORED

CHUNK = 1024
"""Positions whose logits exist at the same time."""
SMALL, LARGE = 2.0**-10, 2.0**20
"""Results of an output layer that a cap leaves alone, and that it bounds; powers of two, so that products are exact."""


class Losses(NamedTuple):
    """The losses of one pass."""

    total: torch.Tensor
    """() sum of the losses; gradients flow from here."""
    each: torch.Tensor
    """(N,) loss of each position with a label, in the order of rows and tokens; without gradient."""
    hits: torch.Tensor
    """(N,) bool: the model's first choice is the label."""


class LinearCrossEntropyLoss(nn.Module):
    """Summed cross-entropy of an output layer's logits, without the logits of all positions in memory.

    Some models change what their output layer returns: Gemma 2 caps it, Granite divides it, Cohere multiplies it. Their
    logits are ``cap * tanh(scale * x / cap)``, or ``scale * x`` without a cap.

    Args:
        scale: factor of the output layer's results.
        cap: bound of the scaled results; None for no bound.
    """

    def __init__(self, scale: float = 1.0, cap: float | None = None) -> None:
        super().__init__()
        self.scale, self.cap = scale, cap

    @classmethod
    def of(cls, network: Any) -> Self | None:
        """The loss with a transformers model's scale and cap, or None if its logits are computed in another way.

        The model's ``forward`` is tried with known numbers in place of the output layer's. Configuration keys would not
        do: Aya Vision has Cohere's ``logit_scale`` in its configuration and does not apply it.
        """
        head = network.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            return None
        tried = (torch.full((head.out_features,), x) for x in (SMALL, LARGE))
        small, large = (_logits_for(network, head, output) for output in tried)
        if small is None or large is None:
            return None
        scale, bound = float(small[0]) / SMALL, float(large[0])
        loss = cls(scale, bound if bound < 0.99 * scale * LARGE else None)
        known = torch.linspace(-60.0, 60.0, head.out_features)
        found = _logits_for(network, head, known)
        matches = found is not None and torch.allclose(found, loss.logits(known), rtol=1e-3, atol=1e-3)
        return loss if matches else None

    def logits(self, output: torch.Tensor) -> torch.Tensor:
        """The model's logits, of the shape of ``output``, which its output layer returned."""
        scaled = output if self.scale == 1 else output * self.scale
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap

    def slope(self, logits: torch.Tensor) -> torch.Tensor | float:
        """Derivative of ``logits`` by the output layer's result; a number where it is the same everywhere."""
        return self.scale if self.cap is None else self.scale * (1 - (logits / self.cap) ** 2)

    def forward(self, hidden: torch.Tensor, head: nn.Linear, labels: torch.Tensor) -> Losses:
        """The losses of predicting each label from the hidden state of the token before.

        Args:
            hidden: (B, T, H) the decoder's last hidden states.
            head: the output layer, H to V.
            labels: (B, T) token ids; ``IGNORED`` where no loss is taken.
        """
        wanted, weight = labels[:, 1:] != IGNORED, head.weight
        if torch.is_autocast_enabled(hidden.device.type):
            weight = weight.to(torch.get_autocast_dtype(hidden.device.type))
        picked = hidden[:, :-1][wanted].to(weight.dtype)
        bias = None if head.bias is None else head.bias.to(weight.dtype)
        found: Any = LinearCrossEntropy.apply(picked, weight, labels[:, 1:][wanted], bias, self)
        return Losses(*found)


class LinearCrossEntropy(torch.autograd.Function):
    """``LinearCrossEntropyLoss`` for positions that are already picked.

    The gradients are computed with the loss, chunk by chunk, and scaled in ``backward`` (Hsu et al. 2024, Liger kernel,
    section 3.2); here in plain torch, so that it runs anywhere. No reference to the weight is kept, so it may be
    sharded again in between.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        bias: torch.Tensor | None,
        loss: LinearCrossEntropyLoss,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``Losses``.

        Args:
            ctx: autograd's.
            hidden: (N, H).
            weight: (V, H).
            targets: (N,) token ids.
            bias: (V,).
            loss: the scale and cap of the logits.
        """
        wants_hidden, wants_weight, _, wants_bias, _ = ctx.needs_input_grad
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        hits = torch.empty_like(targets, dtype=torch.bool)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants_bias else None
        for start in range(0, len(hidden), CHUNK):
            part = slice(start, start + CHUNK)
            logits, chosen = loss.logits(F.linear(hidden[part], weight, bias).float()), targets[part]
            losses[part] = F.cross_entropy(logits, chosen, reduction="none")
            hits[part] = logits.argmax(-1) == chosen
            if wants_hidden or wants_weight or wants_bias:
                grad = logits.softmax(-1)
                grad[torch.arange(len(chosen), device=chosen.device), chosen] -= 1
                slope = loss.slope(logits)
                if not isinstance(slope, float | int) or slope != 1:
                    grad *= slope
                grad = grad.to(weight.dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = grad @ weight
                if grad_weight is not None:
                    grad_weight += grad.T @ hidden[part]
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
        ctx.grads = tuple(
            None if grad is None else grad.to(hidden.dtype) for grad in (grad_hidden, grad_weight, grad_bias)
        )
        ctx.mark_non_differentiable(losses, hits)
        return losses.sum(), losses, hits

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        """Gradients of hidden states, weight and bias."""
        scale = grads[0]
        hidden, weight, bias = (None if grad is None else grad * scale.to(grad.dtype) for grad in ctx.grads)
        return hidden, weight, None, bias, None


class AnswerHead:
    """Computes a model's losses in its forward passes, by hooks on its output layer and on the model.

    Inside ``losses_at``, the output layer gets no position, so that the model's logits are (B, 0, V), and the ``loss``
    of its output is the sum of the losses. Outside, nothing is changed. A model whose logits are neither scaled nor
    capped results of a linear layer keeps its logits, and the losses are taken from them: that is exact, too, and only
    needs more memory.

    Args:
        network: a transformers model (not its ``PeftModel``).
        loss: the model's, where it is known.
        whole_logits: compute the losses from the model's logits at every position, as most trainers do.
    """

    def __init__(self, network: Any, loss: LinearCrossEntropyLoss | None = None, *, whole_logits: bool = False) -> None:
        self.loss = None if whole_logits else loss or LinearCrossEntropyLoss.of(network)
        self._labels: torch.Tensor | None = None
        self._losses: Losses | None = None
        self._hidden: torch.Tensor | None = None
        self._hooks = [network.register_forward_hook(self._hand_out)]
        if self.loss is not None:
            head = network.get_output_embeddings()
            self._hooks += [head.register_forward_pre_hook(self._withhold), head.register_forward_hook(self._score)]

    def remove(self) -> None:
        """Take the hooks out of the network."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def losses_at(self, labels: torch.Tensor) -> Iterator[None]:
        """While the block lasts, a forward pass computes the losses of the labels (B, T)."""
        self._labels, self._losses = labels, None
        try:
            yield
        finally:
            self._labels = self._hidden = None

    @property
    def losses(self) -> Losses:
        """The losses of the last forward pass inside ``losses_at``.

        Raises:
            ModelError: there was no such pass.
        """
        if self._losses is None:
            raise ModelError("expected a forward pass of the model with labels, found none since losses_at")
        return self._losses

    def _withhold(self, head: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if self._labels is None:
            return None
        self._hidden = args[0]
        return (args[0][:, :0],)

    def _score(self, head: nn.Module, args: Any, output: torch.Tensor) -> None:
        # here and not after the model's forward, since ZeRO-3 has the whole weight only while its own module is called
        if self._labels is not None and self._hidden is not None and self.loss is not None:
            self._losses, self._hidden = self.loss(self._hidden, head, self._labels), None

    def _hand_out(self, network: nn.Module, args: Any, output: Any) -> Any:
        if self._labels is None:
            return None
        if self.loss is None:
            self._losses = _losses_of(output["logits"], self._labels)
        output["loss"] = self.losses.total  # FSDP finds what gradients start from among a model's outputs
        return output


def _losses_of(logits: torch.Tensor, labels: torch.Tensor) -> Losses:
    """The losses of labels (B, T) from logits at every position (B, T, V)."""
    logits, targets = logits[:, :-1].float(), labels[:, 1:]
    wanted = targets != IGNORED
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    each = each.view_as(targets)[wanted]
    return Losses(each.sum(), each.detach(), (logits.argmax(-1) == targets)[wanted])


@torch.no_grad()
def _logits_for(network: Any, head: nn.Linear, output: torch.Tensor) -> torch.Tensor | None:
    """The model's logits (V,) if its output layer returned ``output`` (V,); None if they come from elsewhere."""
    called = False

    def replace(layer: Any, args: Any, result: torch.Tensor) -> torch.Tensor:
        nonlocal called
        called = True
        return output.to(result.device).expand_as(result)

    hook = head.register_forward_hook(replace)
    training = network.training
    network.eval()  # no dropout, and no running means that would change
    try:
        tokens = torch.ones(1, 2, dtype=torch.long, device=head.weight.device)
        logits = network(input_ids=tokens, use_cache=False).logits
    finally:
        hook.remove()
        network.train(training)
    return logits[0, -1].float().cpu() if called and logits.shape[-1:] == output.shape else None
