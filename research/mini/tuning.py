"""Tuning the tower's second end to drawings (``mis_lib.models.mini.tower``).

What is one thing in many styles comes to lie in one place.

The tower is frozen up to block 4, whose features (40 maps of 28 x 28, "midway") are computed once. From there the end
and the projector are trained together, so that every style and view of a thing is projected to where its plain drawings
lie already; the language model needs no new training. Features of two pictures swap their statistics on the way
(MixStyle, Zhou et al. 2021), which is what drawing styles differ in.
"""

import math
import random
import re
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from mis_lib.models.load import has_bfloat16_products
from mis_lib.models.mini.tower import FIRST_BRANCH_BLOCK, in_branch
from research.mini import together
from research.mini.aims import Aims, Goals, views_by_style
from research.mini.features import FeatureBank
from research.mini.widen import last_losses, two_views

BATCH, KEPT = 96, 3  # views a step, and one plain one beside so many that keeps its old projection
MIXED, DROPPED = 0.7, 0.2  # share of views with mixed statistics; at most how many channels are dropped
FAINTEST = 1e-3  # added to the spread of a map
FASTER = 3.0  # the projector's learning rate, in that of the end
MIDWAY = 28  # rows and columns of the features midway
HELD = re.compile(r"\.depthwise_conv\.weight$|\.depthwise_norm\.weight$")
"""What of the end stays as it is."""
SETTLED = 0.4  # of the steps; the weights behind are averaged

Shown = Callable[[Sequence[int], random.Random], torch.Tensor]
"""Draws a view of each of some things: features midway (things, 784, 40) in float32."""


class Midway(nn.Module):
    """The tower up to where the ends begin: pixels (n, 3, 224, 224) -> (n, 40, 28, 28)."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.embeddings, self.blocks = tower.embeddings, tower.encoder.blocks[:FIRST_BRANCH_BLOCK]

    def forward(self, pixels: torch.Tensor) -> SimpleNamespace:
        """Features as ``EfficientNetModel`` would return them."""
        hidden = self.embeddings(pixels)
        for block in self.blocks:
            hidden = block(hidden)
        return SimpleNamespace(last_hidden_state=hidden)


class End(nn.Module):
    """The rest of the tower.

    Features midway (n, 784, 40) -> (n, 9, 1280). Batch norms keep their statistics, depthwise filters what they are.

    It computes what the tower's own modules do, several times as fast: batch norms are folded into the convolutions,
    products are taken in bfloat16 where the processor has them, and depthwise filters get no gradient. Theirs alone
    would take most of a step.

    Args:
        tower: holds the parameters, which are tuned in place.
        precision: of the products; default: by the processor.
    """

    def __init__(self, tower: Any, precision: torch.dtype | None = None) -> None:
        super().__init__()
        self.tower = tower.eval().requires_grad_(False)
        self.precision = precision or (torch.bfloat16 if has_bfloat16_products() else torch.float32)

    def forward(self, midway: torch.Tensor) -> torch.Tensor:
        """Features in their places, as the projector reads them."""
        encoder = self.tower.encoder
        hidden = midway.to(self.precision).transpose(1, 2).unflatten(2, (MIDWAY, MIDWAY))
        hidden = hidden.contiguous(memory_format=torch.channels_last)
        for block in encoder.blocks[FIRST_BRANCH_BLOCK:]:
            wide = F.relu6(self._mixed(hidden, block.expansion.expand_conv, block.expansion.expand_bn))
            spread = F.relu6(self._filtered(wide, block.depthwise_conv))
            narrow = self._mixed(spread, block.projection.project_conv, block.projection.project_bn)
            hidden = hidden + narrow if block.projection.apply_dropout else narrow
        return F.relu6(self._mixed(hidden, encoder.top_conv, encoder.top_bn)).float().flatten(2).transpose(1, 2)

    def _mixed(self, hidden: torch.Tensor, convolution: Any, norm: Any) -> torch.Tensor:
        """Channels mixed in each place, then normalised."""
        scale, shift = _folded(norm)
        weight = convolution.weight * scale[:, None, None, None]
        return F.conv2d(hidden, weight.to(self.precision), shift.to(self.precision))

    def _filtered(self, hidden: torch.Tensor, depthwise: Any) -> torch.Tensor:
        """Each channel filtered by itself, then normalised."""
        scale, shift = _folded(depthwise.depthwise_norm)
        weight = depthwise.depthwise_conv.weight * scale[:, None, None, None]
        shift = shift[:, None, None].to(self.precision)
        if depthwise.stride == 1:
            return _Filter.apply(hidden, weight.detach().to(self.precision)) + shift
        # Where places are few, the kernel for single precision is the faster one.
        padded = depthwise.depthwise_conv_pad(hidden.float())
        filtered = F.conv2d(padded, weight.detach().float(), stride=depthwise.stride, groups=len(weight))
        return filtered.to(self.precision) + shift

    def own(self) -> dict[str, nn.Parameter]:
        """What is the end's own, by its name in the tower.

        What may be tuned, and depthwise filters, which an earlier end may have brought.
        """
        return {
            name: value
            for name, value in self.tower.named_parameters()
            if in_branch(name) and ".squeeze_excite." not in name
        }

    def tensors(self) -> dict[str, nn.Parameter]:
        """What may be tuned."""
        return {name: value for name, value in self.own().items() if not HELD.search(name)}


class _Filter(torch.autograd.Function):
    """A depthwise convolution that keeps size.

    Its gradient to what it is given is one more, with the filters turned round.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return F.conv2d(hidden, weight, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (weight,) = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        return F.conv2d(grad, weight.flip(2, 3), padding=weight.shape[-1] // 2, groups=len(weight)), None


def _folded(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """By what a batch norm that keeps its statistics multiplies each channel, and what it adds."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def mix_statistics(midway: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Give most pictures' maps a mean and spread between their own and another picture's; (n, 784, 40)."""
    number = len(midway)
    mean, spread = midway.mean(1, keepdim=True), midway.std(1, keepdim=True) + FAINTEST
    device = midway.device
    other = torch.randperm(number, generator=generator, device=device)
    share = torch.rand(number, 1, 1, generator=generator, device=device)
    share = torch.where(torch.rand(number, 1, 1, generator=generator, device=device) < MIXED, share, 1.0)
    new_mean = share * mean + (1 - share) * mean[other]
    new_spread = share * spread + (1 - share) * spread[other]
    return (midway - mean) / spread * new_spread + new_mean


def stored(bank: FeatureBank) -> Shown:
    """Views that were computed once, by lot."""
    views = views_by_style(bank)
    return lambda things, dice: bank.table[[two_views(views, thing, dice)[0] for thing in things]].float()


def tune(
    end: End,
    projector: nn.Module,
    aims: Aims,
    bank: FeatureBank,
    *,
    steps: int,
    lr: float,
    seed: int,
    batch: int = BATCH,
    often: Sequence[float] | None = None,
    shown: Shown | None = None,
    seconds: float = math.inf,
    save: Callable[[], None] = lambda: None,
    save_every: int = 500,
) -> tuple[End, nn.Module, dict[str, float]]:
    """Train ``end`` and ``projector`` (float32) in place, on the device of ``bank``.

    Args:
        end: the published one.
        projector: as it fits the published end; what of it needs no gradient stays.
        aims: where things lie, and what plain drawings are projected to.
        bank: features midway of the plain drawings at least, (views, 784, 40).
        steps: at most so many, of ``batch`` views, all processes together.
        lr: of the end; falls to a third in a straight line.
        seed: makes the run repeatable.
        batch: views a step.
        often: how often each thing is shown, in relation to the others (all alike).
        shown: draws views (those in ``bank``).
        seconds: end after so many, if the steps take longer.
        save: called now and then.
        save_every: steps between two calls.

    Returns:
        End and projector with weights averaged over the steps after ``SETTLED`` of the run, which see a style that
        none was tuned to better than the last ones (Cha et al. 2021, arXiv 2102.08604); and mean losses of the last
        100 steps with how many there were.
    """
    device = bank.table.device
    dice, generator = random.Random(seed), torch.Generator(device).manual_seed(seed)
    shown = shown or stored(bank)
    goals = Goals(aims.places)
    tuned = list(end.tensors().values())
    for value in tuned:
        value.requires_grad_(True)
    fitted = [value for value in projector.parameters() if value.requires_grad]
    groups = [{"params": tuned, "rate": lr}, {"params": fitted, "rate": FASTER * lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
    eyes = nn.Sequential(end, projector)
    averaged = AveragedModel(eyes)
    batch = together.part(batch)
    number_kept = min(batch // KEPT, len(aims.rows))
    history, started = [], time.monotonic()
    for step in range(steps):
        used = together.agree(max(step / steps, (time.monotonic() - started) / seconds))
        if step and used >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, (step + 1) / 40) * (1 - 2 / 3 * used)
        things = dice.choices(range(len(goals.places)), often, k=batch)
        features = end(mix_statistics(shown(things, dice), generator))
        gone = DROPPED * torch.rand(batch, 1, 1, generator=generator, device=device)
        left = torch.rand(batch, 1, features.shape[2], generator=generator, device=device) > gone
        features = features * left / (1 - gone)
        told_apart, pull = goals.losses(projector(features).mean(1), torch.tensor(things, device=device))
        known = dice.sample(range(len(aims.rows)), number_kept)
        plain, wanted = bank.table[[aims.rows[at] for at in known]], aims.kept[known]
        kept = F.mse_loss(projector(end(plain)), wanted) / wanted.var()
        loss = told_apart + 0.5 * pull + kept
        optimizer.zero_grad()
        loss.backward()
        together.average([*tuned, *fitted])
        optimizer.step()
        if used >= SETTLED:
            averaged.update_parameters(eyes)
        history.append(torch.stack([told_apart, pull, kept]).detach())
        if step % 100 == 99:
            print({"step": step + 1, **last_losses(history)}, flush=True)
        if step % save_every == save_every - 1:
            save()
    if not averaged.n_averaged:  # time was up in the first steps
        averaged.update_parameters(eyes)
    mean_end, mean_projector = cast(nn.Sequential, averaged.module)
    return cast(End, mean_end), mean_projector, last_losses(history) | {"steps": len(history)}


@torch.no_grad()
def features_of(end: End, midway: torch.Tensor) -> torch.Tensor:
    """What ``end`` makes of features midway (views, 784, 40): (views, 9, 1280) in bfloat16."""
    return torch.cat([end(part).bfloat16() for part in midway.split(256)])
