"""Procedural textures with detail at every scale, so that images have corners near and far, and their mip map."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

Image = NDArray[np.uint8]
PADDING = 16
"""Texels repeated around each face in the atlas; enough for the coarsest mip level."""
LEVELS = 5


def noise(rng: np.random.Generator, height: int, width: int, coarsest: int = 128) -> NDArray[np.float32]:
    """Return fractal noise (height, width), roughly in [-1, 1]: octaves from `coarsest` texels down to one."""
    total = np.zeros((height, width), np.float32)
    cell, amplitude = coarsest, 0.5
    while cell >= 1:
        grid = rng.uniform(-1, 1, (height // cell + 2, width // cell + 2)).astype(np.float32)
        resized = cv2.resize(grid, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        total += amplitude * resized[:height, :width]
        cell, amplitude = cell // 2, amplitude * 0.8
    return total


def material(kind: str, rng: np.random.Generator, height: int, width: int, color: Array) -> Image:
    """Return a texture, RGB uint8 (height, width, 3).

    Args:
        kind: `plaster`, `bricks`, `tiles`, `planks` or `fabric`.
        rng: source of its random detail.
        height, width: in texels.
        color: its mean RGB in [0, 1].

    Raises:
        ValueError: an unknown kind.

    """
    shade = np.ones((height, width), np.float32)
    if kind in ("bricks", "tiles", "planks"):
        rows, columns = {"bricks": (18, 52), "tiles": (75, 75), "planks": (30, 240)}[kind]
        y, x = np.mgrid[:height, :width]
        row = y // rows
        x = x + (0 if kind == "tiles" else 1) * (row * 37 % columns)
        column = x // columns
        values = rng.uniform(0.65, 1.2, (row.max() + 1, column.max() + 1)).astype(np.float32)
        joint = (y % rows < 2) | (x % columns < 2)
        shade = np.where(joint, 0.45, values[row, column]).astype(np.float32)
        if kind == "planks":  # grain runs along the planks
            grain = noise(rng, height, width // 12 + 1, 32)
            shade *= 1 + 0.25 * cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
    elif kind == "fabric":
        y, x = np.mgrid[:height, :width]
        shade = (1 + 0.3 * np.sin(x / 9.0) * np.sin(y / 9.0) + 0.2 * np.sign(np.sin(x / 31.0))).astype(np.float32)
    elif kind != "plaster":
        raise ValueError(f"texture kind {kind!r}: there are plaster, bricks, tiles, planks and fabric")
    shade *= 1 + 0.35 * noise(rng, height, width)
    tint = 1 + 0.12 * np.stack([noise(rng, height, width) for _ in range(3)], axis=2)
    image = np.asarray(color, np.float32) * shade[..., None] * tint
    return np.clip(255 * image, 0, 255).astype(np.uint8)


def draw_posters(image: Image, rng: np.random.Generator, count: int) -> None:
    """Draw `count` framed posters of colored rectangles, disks and bars onto `image`, in place."""
    height, width = image.shape[:2]
    for _ in range(count):
        h = int(rng.uniform(0.2, 0.45) * height)
        w = min(int(h * rng.uniform(0.7, 1.5)), width - 1)
        top, left = int(rng.uniform(0.08, 0.5) * height), int(rng.uniform(0, max(width - w, 1)))
        poster = image[top:top + h, left:left + w]
        poster[:] = rng.integers(120, 250, 3, np.uint8)
        for _ in range(14):
            color = tuple(int(value) for value in rng.integers(10, 250, 3))
            x, y, size = int(rng.integers(0, w)), int(rng.integers(0, h)), int(rng.uniform(0.04, 0.2) * h)
            if rng.random() < 0.5:
                cv2.rectangle(poster, (x, y), (x + 2 * size, y + size), color, -1)
            else:
                cv2.circle(poster, (x, y), size, color, -1, cv2.LINE_AA)
        stains = 1 + 0.15 * noise(rng, poster.shape[0], poster.shape[1], 16)[..., None]
        poster[:] = np.clip(poster * stains, 0, 255).astype(np.uint8)
        cv2.rectangle(poster, (0, 0), (poster.shape[1] - 1, poster.shape[0] - 1), (40, 30, 25), 5)


def shade_edges(image: Image, reach: int, strength: float = 0.35) -> Image:
    """Return `image` darker within `reach` texels of its edges, as ambient light makes the corners of a room."""
    height, width = image.shape[:2]
    edge = np.minimum(np.minimum(np.arange(height), np.arange(height)[::-1])[:, None],
                      np.minimum(np.arange(width), np.arange(width)[::-1])[None])
    light = 1 - strength * np.exp(-edge / max(reach, 1))
    return (image * light[..., None]).astype(np.uint8)


class TextureAtlas:
    """All textures in one image with its mip levels (Williams, Pyramidal Parametrics, 1983)."""

    def __init__(self, textures: Sequence[Image], width: int = 2048) -> None:
        """Pack `textures` in rows; `corner` (n, 2) becomes the x, y of each one's first texel at level 0."""
        padded = [cv2.copyMakeBorder(t, PADDING, PADDING, PADDING, PADDING, cv2.BORDER_REPLICATE) for t in textures]
        width = max([width, *(t.shape[1] for t in padded)])
        self.corner = np.zeros((len(textures), 2), np.float32)
        x = y = row_height = 0
        for index in sorted(range(len(padded)), key=lambda i: -padded[i].shape[0]):
            h, w = padded[index].shape[:2]
            if x + w > width:
                x, y, row_height = 0, y + row_height, 0
            self.corner[index] = x, y
            x, row_height = x + w, max(row_height, h)
        height = y + row_height
        step = 2 ** (LEVELS - 1)
        height, width = -(-height // step) * step, -(-width // step) * step
        base = np.zeros((height, width, 3), np.uint8)
        for (left, top), image in zip(self.corner.astype(int), padded, strict=True):
            base[top:top + image.shape[0], left:left + image.shape[1]] = image
        self.corner += PADDING
        self.image = np.zeros((height, width + width // 2, 3), np.uint8)
        self.offset = np.zeros((LEVELS, 2), np.float32)
        level, left, top = base, 0, 0
        for index in range(LEVELS):
            h, w = level.shape[:2]
            self.image[top:top + h, left:left + w] = level
            self.offset[index] = left, top
            left, top = width, top + (h if index else 0)
            level = cv2.resize(level, (w // 2, h // 2), interpolation=cv2.INTER_AREA)

    def sample(self, x: NDArray[np.float32], y: NDArray[np.float32], lod: NDArray[np.float32]) -> Image:
        """Return the colors (h, w, 3) at level-0 coordinates x, y (h, w), filtered for the level of detail `lod`."""
        lod = np.clip(lod, 0, LEVELS - 1)
        fine = np.minimum(lod.astype(np.int32), LEVELS - 2)
        weight = (lod - fine)[..., None]
        near, far = (self._bilinear(x, y, level) for level in (fine, fine + 1))
        return np.asarray(cv2.convertScaleAbs(near + (far.astype(np.float32) - near) * weight), np.uint8)

    def _bilinear(self, x: NDArray[np.float32], y: NDArray[np.float32], level: NDArray[np.int32]) -> Image:
        level_scale = (0.5 ** np.arange(LEVELS)).astype(np.float32)[level]
        columns = (x + 0.5) * level_scale - 0.5 + self.offset[level, 0]
        rows = (y + 0.5) * level_scale - 0.5 + self.offset[level, 1]
        return np.asarray(cv2.remap(self.image, columns, rows, cv2.INTER_LINEAR), np.uint8)
