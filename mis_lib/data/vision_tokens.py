"""Image tokens: how many of them a model makes of an image, from width and height alone.

One small class for each way that models cut images up; tests hold each to the image processor that transformers ships for it. Sizes are
``(width, height)`` in pixels, as shown. Marks around an image (vision start and end, tile names) count, since they take
room too. Which model counts how is told by ``vision_families``.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from mis_lib.data.headers import Size
from mis_lib.settings import Settings


class ImageTokens(Protocol):
    """Counts the tokens of the images of one row."""

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """Tokens of each image, in order; a row's images are given together because some models share a budget among them."""
        ...


class Fixed(Settings):
    """Every image is scaled to one size (LLaVA-1.5, FastVLM, mini)."""

    tokens: int

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """The same for every image."""
        return [self.tokens for _ in sizes]


class Grid(Settings):
    """Images keep their shape; sides are rounded to whole cells within a budget of pixels (Qwen2-VL, Qwen2.5-VL, Qwen3-VL)."""

    patch: int = 14
    merge: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 16384 * 28 * 28

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """Cells of the grid, and the marks before and after it."""
        return [math.prod(self.cells(size)) + 2 for size in sizes]

    def cells(self, size: Size) -> tuple[int, int]:
        """Columns and rows of merged patches."""
        side = self.patch * self.merge
        columns, rows = round(size.width / side), round(size.height / side)
        pixels = columns * rows * side * side
        if pixels > self.max_pixels:
            scale = math.sqrt(size.width * size.height / self.max_pixels)
            return max(1, math.floor(size.width / scale / side)), max(1, math.floor(size.height / scale / side))
        if pixels < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (size.width * size.height))
            return math.ceil(size.width * scale / side), math.ceil(size.height * scale / side)
        return columns, rows


class Tiles(Settings):
    """Square tiles in the grid whose shape is nearest the image's, and a thumbnail if there are several (InternVL)."""

    side: int = 448
    tokens: int = 256
    max_tiles: int = 12
    """Of an image, as in training and generation here; InternVL's own training script shares them among the images of a row."""

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """Tiles with thumbnail, and the marks before and after them."""
        return [self.tiles(size) * self.tokens + 2 for size in sizes]

    def tiles(self, size: Size) -> int:
        """How many tiles; of equally fitting grids the larger one, if the image has at least half its area."""
        grids = [(x, y) for x in range(1, self.max_tiles + 1) for y in range(1, self.max_tiles // x + 1)]
        best, nearest = (1, 1), math.inf
        for grid in sorted(grids, key=math.prod):
            distance = abs(size.width / size.height - grid[0] / grid[1])
            if distance < nearest:
                best, nearest = grid, distance
            elif distance == nearest and size.width * size.height > 0.5 * self.side**2 * math.prod(grid):
                best = grid
        number = math.prod(best)
        return number + 1 if number > 1 else 1


class AnyRes(Settings):
    """A single image in the best of many resolutions, padding cut away, beside the whole; several images once each (LLaVA-OneVision)."""

    side: int = 384
    patches: int = 27
    """Patches along a side of a tile."""
    max_tiles: int = 9
    pinpoints: tuple[tuple[int, int], ...] = tuple((y * 384, x * 384) for y in range(1, 7) for x in range(1, 7))
    """Resolutions to choose from, (height, width)."""

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """Tokens of the whole image and, where it is the only one, of its tiles with a mark after each line."""
        whole = self.patches**2
        if len(sizes) != 1:
            return [whole + 1 for _ in sizes]
        return [whole + self._tiled(sizes[0])]

    def _tiled(self, size: Size) -> int:
        best_height, best_width = self._resolution(size)
        rows, columns = self.patches * (best_height // self.side), self.patches * (best_width // self.side)
        if size.width / size.height > columns / rows:
            rows -= (rows - int(round(size.height * (columns / size.width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(size.width * (rows / size.height), 7))) // 2 * 2
        excess = math.sqrt(columns * rows / (self.max_tiles * self.patches**2))
        if excess > 1.1:
            rows, columns = int(rows // excess), int(columns // excess)
        return rows * columns + rows

    def _resolution(self, size: Size) -> tuple[int, int]:
        """The pinpoint that keeps most of the image's pixels and, of those, wastes fewest."""

        def worth(point: tuple[int, int]) -> tuple[int, int]:
            scale = min(point[1] / size.width, point[0] / size.height)
            kept = min(int(size.width * scale) * int(size.height * scale), size.width * size.height)
            return kept, kept - math.prod(point)

        return max(self.pinpoints, key=worth)


class Splits(Settings):
    """The longer side is brought to one length, the image cut into square pieces, each named, and shown once more as a whole (Idefics3, SmolVLM)."""

    longest: int = 1456
    side: int = 364
    tokens: int = 169
    """Tokens of one piece."""

    def count(self, sizes: Sequence[Size]) -> list[int]:
        """Pieces with their marks and line ends, and the whole with its three marks."""
        return [self._one(size) for size in sizes]

    def _one(self, size: Size) -> int:
        width, height = self._scaled(size)
        columns, rows = math.ceil(width / self.side), math.ceil(height / self.side)
        whole = self.tokens + 3
        return whole if columns * rows == 1 else whole + rows * (columns * (self.tokens + 2) + 1)

    def _scaled(self, size: Size) -> tuple[int, int]:
        """Width and height with the longer side at its length, the other even."""
        ratio = size.width / size.height
        if size.width >= size.height:
            height = int(self.longest / ratio)
            return self.longest, max(1, height + height % 2)
        width = int(self.longest * ratio)
        return max(1, width + width % 2), self.longest
