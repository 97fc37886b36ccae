"""Photographs without photographs.

Images dreamed from the classifier's own weights, after DeepInversion (Yin et al., 2020).

The vision tower was trained on ImageNet, but no photograph is at hand to teach the projector what its features mean. A
dream starts as noise and is changed until the classifier is sure of a class and the mean and variance at each batch
norm are those of its training data; jitter and total variation keep it smooth. The features of such an image are those
of a photograph, which is all the projector sees.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

SIZE = 160
LEVELS = (5, 10, 20, 40, 80)  # sides of the pyramid that a dream is painted with, coarse to fine
# how the colour channels of photographs vary together: mostly light, little colour (measured on ImageNet, Olah et al.
# 2017)
COLOURS = torch.tensor([[0.56, 0.19, 0.04], [0.58, 0.00, -0.11], [0.58, -0.19, 0.06]]) * 2


class NormStatistics:
    """Collects, for each batch norm of a tower, how far the batch's statistics are from the stored ones."""

    def __init__(self, tower: nn.Module) -> None:
        self.terms: list[torch.Tensor] = []
        norms = [module for module in tower.modules() if isinstance(module, nn.BatchNorm2d)]
        self.handles = [norm.register_forward_pre_hook(self._compare) for norm in norms]

    def _compare(self, norm: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        variance, mean = (value.float() for value in torch.var_mean(inputs[0], dim=(0, 2, 3)))
        spread = norm.running_var.float() + norm.eps
        # relative to the stored variance, so that layers of any scale weigh the same
        mean_term = ((mean - norm.running_mean.float()).square() / spread).mean()
        self.terms.append(mean_term + (variance / spread - 1).square().clamp(max=4).mean())

    def take(self) -> torch.Tensor:
        """Mean over the layers since the last call."""
        total = torch.stack(self.terms).mean()
        self.terms.clear()
        return total

    def remove(self) -> None:
        """Take the hooks off the tower."""
        for handle in self.handles:
            handle.remove()


def dream(
    tower: nn.Module,
    head: tuple[torch.Tensor, torch.Tensor],
    classes: torch.Tensor,
    *,
    steps: int = 110,
    lr: float = 0.08,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Dream one image per entry of ``classes``, at 160 pixels.

    Half the work of 224, and pictures are cropped and scaled later anyway.

    Args:
        tower: the vision tower in evaluation mode, squeeze-excite removed for speed, parameters frozen.
        head: weight (1000, 1280) and bias (1000,) of the classifier.
        classes: ImageNet class indices, (n,).
        steps: gradient steps; 110 make the classifier sure.
        lr: Adam's rate in the tower's normalised pixels.

    Returns:
        uint8 images (n, 3, 160, 160) and the classifier's probability of the wanted class (n,).
    """
    device, n = classes.device, len(classes)
    pyramid = [(torch.randn(n, 3, size, size, device=device) * 0.15).requires_grad_(True) for size in LEVELS]
    optimizer = torch.optim.Adam(pyramid, lr=lr)
    statistics = NormStatistics(tower)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        shift = [int(value) for value in torch.randint(-16, 17, (2,))]
        view = torch.roll(_image(pyramid), shift, (2, 3))
        view = torch.flip(view, (3,)) if step % 2 else view
        with torch.autocast(device.type, torch.bfloat16):
            features = tower(view.to(memory_format=torch.channels_last)).last_hidden_state.float().mean((2, 3))
        logits = features @ head[0].T + head[1]
        loss = F.cross_entropy(logits, classes) + 3.0 * statistics.take() + 0.15 * _variation(view)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    statistics.remove()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        image = _image(pyramid)
        features = tower(image).last_hidden_state.float().mean((2, 3))
    sure = (features @ head[0].T + head[1]).softmax(-1).gather(1, classes[:, None])[:, 0]
    return ((image.detach() * 128 + 127).clamp(0, 255)).to(torch.uint8), sure


def _image(pyramid: list[torch.Tensor]) -> torch.Tensor:
    """Sum of the levels, finer ones weaker: like a photograph's spectrum, and without the noise of free pixels."""
    parts = [
        F.interpolate(level, size=SIZE, mode="bilinear", align_corners=False) * (LEVELS[0] / level.shape[-1]) ** 0.5
        for level in pyramid
    ]
    return torch.tanh(torch.einsum("ck,nkhw->nchw", COLOURS.to(parts[0].device), torch.stack(parts).sum(0)))


def _variation(image: torch.Tensor) -> torch.Tensor:
    across = (image[..., 1:] - image[..., :-1]).abs().mean()
    return across + (image[..., 1:, :] - image[..., :-1, :]).abs().mean()
