"""Pictures to train on: drawings in many styles, cut-out photographs and dreamed photographs, augmented on the device.

A picture is named by ``Picture(kind, number)``: ``drawn`` pictures are concepts in a style drawn by lot, ``photo``
pictures are dreams or cut-outs. Augmentation (place, size, tilt, mirror, ground, line and grey versions, light, noise)
runs on the device in one batch, so that the same concept never gives the same pixels twice.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from research.mini.assets import BITMAPS, COLOURED, INKED, STYLES

SIZE = 224
STYLE_WEIGHTS = (
    dict.fromkeys(STYLES, 3.0)
    | dict.fromkeys(COLOURED[2:], 1.0)
    | dict.fromkeys(BITMAPS, 1.0)
    | dict.fromkeys(INKED, 0.5)
    | {"symbola": 5.0}
)
"""How often each style is seen. What a drawing by another hand teaches, none by the same hand in other ink does: 32
inked styles come from eight hands.
"""

LINES, GREYS = 0.3, 0.1  # shares of augmented drawings that become line art and grey
BENT = 0.06  # spread of how far a part of an augmented picture is moved, in half its width


class Picture(NamedTuple):
    """One picture to draw: ``kind`` is "drawn", "cutout", "dream" or "black".

    ``style`` fixes a drawing style (None: by lot).

    A "prototype" is a picture in features only (``prototypes``).
    """

    kind: str
    number: int
    style: str | None = None


class PictureBank:
    """Arrays of raw pictures on one device.

    Args:
        drawings: uint8 (concepts, styles, s, s, 4); an all-transparent drawing means that the style lacks the concept.
        styles: names of the styles, in the order of the second axis.
        cutouts: uint8 (n, s, s, 4), photographs on transparent ground; may be empty.
        dreams: uint8 (n, 3, s, s); may be empty.
    """

    def __init__(
        self, drawings: np.ndarray, styles: list[str], cutouts: np.ndarray, dreams: np.ndarray, device: str
    ) -> None:
        self.device = device
        self.styles = styles
        self.drawings = torch.from_numpy(drawings).to(device)
        self.cutouts = torch.from_numpy(cutouts).to(device)
        self.dreams = torch.from_numpy(dreams).to(device)
        there = (drawings[..., 3].reshape(*drawings.shape[:2], -1).max(-1) > 0).astype(np.float32)
        there[:, styles.index("noto")] = 0  # the unseen style is never drawn by lot
        weights = np.array([STYLE_WEIGHTS.get(style, 1.0) for style in styles], dtype=np.float32)
        self.lots = torch.from_numpy(there * weights).to(device)

    def pixels(self, pictures: list[Picture], *, augment: bool) -> torch.Tensor:
        """Render pictures to (n, 3, 224, 224) in the tower's normalisation, (x - 127) / 128."""
        result = torch.empty(len(pictures), 3, SIZE, SIZE, device=self.device)
        for kind, render in (
            ("drawn", self._drawn),
            ("cutout", self._cutout),
            ("dream", self._dream),
            ("black", self._black),
        ):
            rows = [row for row, picture in enumerate(pictures) if picture.kind == kind]
            if rows:
                result[rows] = render([pictures[row] for row in rows], augment)
        if augment:
            light = torch.empty(len(pictures), 1, 1, 1, device=self.device).uniform_(0.8, 1.15)
            result = (result * light + torch.randn_like(result) * 0.02).clamp(0, 1)
        return (result * 255 - 127) / 128

    def framed(self, pictures: list[Picture]) -> torch.Tensor:
        """Drawings as MIS-Mini shows its own: whole, on lightly tinted paper, tilted and moved a little.

        (n, 3, 224, 224).
        """
        index = torch.tensor([picture.number for picture in pictures], device=self.device)
        style = torch.tensor([self.styles.index(str(picture.style)) for picture in pictures], device=self.device)
        lot = torch.rand(len(pictures), 4, device=self.device)
        size, angle = 1.12 + 0.58 * lot[:, 0], 0.4 * (lot[:, 1] - 0.5)
        shift = 1.2 * (lot[:, 2:] - 0.5) * (size[:, None] - 1)
        grid = _grid(size, angle, shift, torch.ones_like(size))
        drawing = F.grid_sample(_premultiplied(self.drawings[index, style]), grid, align_corners=False)
        paper = 0.84 + 0.16 * torch.rand(len(pictures), 3, 1, 1, device=self.device)
        return (_over(drawing, paper) * 255 - 127) / 128

    def _drawn(self, pictures: list[Picture], augment: bool) -> torch.Tensor:
        index = torch.tensor([picture.number for picture in pictures], device=self.device)
        style = torch.multinomial(self.lots[index], 1)[:, 0]
        for row, picture in enumerate(pictures):
            if picture.style is not None:
                style[row] = self.styles.index(picture.style)
        drawing = _premultiplied(self.drawings[index, style])
        drawing = _place(drawing, augment, scale=(0.85, 1.6), tilt=0.35)
        if augment:
            drawing = _stylised(drawing)
        return _over(drawing, _ground(len(pictures), self.device, augment))

    def _cutout(self, pictures: list[Picture], augment: bool) -> torch.Tensor:
        index = torch.tensor([picture.number for picture in pictures], device=self.device)
        photo = _place(_premultiplied(self.cutouts[index]), augment, scale=(0.6, 1.3), tilt=0.25)
        ground = _ground(len(pictures), self.device, augment)
        if augment and len(self.dreams):
            # half of the cut-outs stand before a blurred dream: a photographic ground without a photograph
            behind = self.dreams[torch.randint(len(self.dreams), (len(pictures),), device=self.device)].float() / 255
            behind = F.interpolate(F.avg_pool2d(behind, 16), size=SIZE, mode="bilinear")
            ground = torch.where(torch.rand(len(pictures), 1, 1, 1, device=self.device) < 0.5, behind, ground)
        return _over(photo, ground)

    def _dream(self, pictures: list[Picture], augment: bool) -> torch.Tensor:
        index = torch.tensor([picture.number for picture in pictures], device=self.device)
        photo = self.dreams[index].float() / 255
        if not augment:
            return F.interpolate(photo, size=SIZE, mode="bilinear")
        return _place(photo, augment, scale=(0.6, 1.0), tilt=0.1, padding="reflection")

    def _black(self, pictures: list[Picture], augment: bool) -> torch.Tensor:
        return torch.zeros(len(pictures), 3, SIZE, SIZE, device=self.device)


def _premultiplied(rgba: torch.Tensor) -> torch.Tensor:
    image = rgba.float().permute(0, 3, 1, 2) / 255
    return torch.cat([image[:, :3] * image[:, 3:], image[:, 3:]], 1)


def _over(drawing: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    return drawing[:, :3] + ground * (1 - drawing[:, 3:])


def _place(
    image: torch.Tensor, augment: bool, *, scale: tuple[float, float], tilt: float, padding: str = "zeros"
) -> torch.Tensor:
    """Scale, tilt, shift and mirror (n, c, h, w) to (n, c, 224, 224); ``scale`` above 1 makes the thing smaller."""
    n, device = len(image), image.device
    lot = torch.rand(n, 5, device=device) if augment else torch.full((n, 5), 0.5, device=device)
    size = scale[0] + (scale[1] - scale[0]) * lot[:, 0] if augment else torch.full((n,), 1.25, device=device)
    angle = (lot[:, 1] - 0.5) * 2 * tilt
    shift = (lot[:, 2:4] - 0.5) * 0.4
    mirror = torch.where(lot[:, 4] < 0.3, -1.0, 1.0)
    grid = _grid(size, angle, shift, mirror)
    if augment:  # bent a little, as another hand would draw it
        bends = BENT * torch.randn(n, 2, 4, 4, device=device)
        grid = grid + F.interpolate(bends, size=SIZE, mode="bicubic").permute(0, 2, 3, 1)
    return F.grid_sample(image, grid, padding_mode=padding, align_corners=False)


def _grid(size: torch.Tensor, angle: torch.Tensor, shift: torch.Tensor, mirror: torch.Tensor) -> torch.Tensor:
    """From where pixels (n, 224, 224, 2) are taken; ``size`` above 1 makes the thing smaller, ``mirror`` is 1 or -1."""
    first = torch.stack([mirror * angle.cos() * size, -angle.sin() * size, shift[:, 0]], 1)
    second = torch.stack([mirror * angle.sin() * size, angle.cos() * size, shift[:, 1]], 1)
    return F.affine_grid(torch.stack([first, second], 1), [len(size), 1, SIZE, SIZE], align_corners=False)


def _ground(n: int, device: str, augment: bool) -> torch.Tensor:
    if not augment:
        return torch.full((n, 3, SIZE, SIZE), 0.93, device=device)
    waves = F.interpolate(torch.rand(n, 3, 4, 4, device=device), size=SIZE, mode="bicubic").clamp(0, 1)
    plain, mix = torch.rand(n, 3, 1, 1, device=device), torch.rand(n, 1, 1, 1, device=device) * 0.5
    dark = torch.where(torch.rand(n, 1, 1, 1, device=device) < 0.15, 0.35, 1.0)
    return (0.35 + 0.65 * (plain * (1 - mix) + waves * mix)) * dark


def _stylised(drawing: torch.Tensor) -> torch.Tensor:
    """Turn some drawings into line art, some into grey ones: the nearest thing to styles that are not in the bank."""
    lot = torch.rand(len(drawing), device=drawing.device)
    drawn, toned = lot < LINES, (lot >= LINES) & (lot < LINES + GREYS)
    result = drawing.clone()
    result[drawn] = lines(drawing[drawn])
    result[toned, :3] = _grey(drawing[toned]).expand(-1, 3, -1, -1)
    return result


def _grey(drawing: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor([0.3, 0.59, 0.11], device=drawing.device).view(1, 3, 1, 1)
    return (drawing[:, :3] * weights).sum(1, keepdim=True)


def lines(drawing: torch.Tensor) -> torch.Tensor:
    """Edges of premultiplied drawings (n, 4, h, w) in ink, thin or thick."""
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=drawing.device)
    light = F.pad(_grey(drawing) + 1 - drawing[:, 3:], (2, 2, 2, 2), mode="replicate")  # a picture's rim is no edge
    edges = F.conv2d(F.avg_pool2d(light, 3, 1), torch.stack([sobel, sobel.T])[:, None])
    edges = edges.square().sum(1, keepdim=True).sqrt()
    lot = torch.rand(len(drawing), 1, 1, 1, device=drawing.device)
    thick = torch.where(lot < 0.5, F.max_pool2d(edges, 3, 1, 1), F.max_pool2d(edges, 5, 1, 2))
    return torch.cat([torch.zeros_like(drawing[:, :3]), (thick * 1.5).clamp(0, 1)], 1)
