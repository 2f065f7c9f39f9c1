"""A plot of paths in a plane with equal axes, drawn by OpenCV.

Importing matplotlib and drawing one such plot takes 1.5 s of processor time, as long as some seconds of video.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

Color = tuple[int, int, int]
_SIZE, _LEFT, _RIGHT, _TOP, _BOTTOM = (1260, 1050), 100, 24, 84, 84
"""Width and height of the picture, and the space around the plot, pixels."""
_FONT, _BLACK, _GRID = cv2.FONT_HERSHEY_SIMPLEX, (30, 30, 30), (221, 221, 221)
_MARGIN = 0.06
"""Space around the paths, as a fraction of the plot."""
_TICKS = 8
"""About how many lines of the grid there are along the longer axis."""
_SUBPIXEL = 4
"""Bits of the fraction of positions."""


@dataclass(frozen=True)
class _Path:
    """A path (n, 2) with its style; colors are RGB."""

    points: Array
    label: str
    color: Color
    width: int
    dots: int
    ring: bool


@dataclass
class PlanePlot:
    """Paths in a plane, in one unit on both axes.

    Attributes:
        title: lines of text above.
        labels: of the horizontal and the vertical axis.

    """

    title: str
    labels: tuple[str, str]
    _paths: list[_Path] = field(default_factory=list)

    def add(self, points: Array, label: str, color: Color, width: int = 0, dots: int = 0, ring: bool = False) -> None:
        """Add a path of points (n, 2): a line of a width, dots or rings of a radius, pixels; 0 for neither."""
        self._paths.append(_Path(points, label, color, width, dots, ring))

    def draw(self) -> NDArray[np.uint8]:
        """Return the picture, RGB."""
        picture = np.full((_SIZE[1], _SIZE[0], 3), 255, np.uint8)
        box = np.array([_LEFT, _TOP, _SIZE[0] - _RIGHT, _SIZE[1] - _BOTTOM], float)
        everything = np.concatenate([path.points for path in self._paths])
        low, high = everything.min(0), everything.max(0)
        scale = (1 - 2 * _MARGIN) * float(np.min((box[2:] - box[:2]) / np.maximum(high - low, 1e-9)))
        middle, center = (low + high) / 2, (box[:2] + box[2:]) / 2
        self._draw_grid(picture, box, scale, middle, center)
        placed = [(points - middle) * [scale, -scale] + center for points in (path.points for path in self._paths)]
        for path, pixels in zip(self._paths, placed, strict=True):
            _draw_path(picture, path, pixels)
        self._draw_legend(picture, box, np.concatenate(placed))
        for row, line in enumerate(self.title.split("\n")):
            _text(picture, line, ((box[0] + box[2]) / 2, 34 + 34 * row), 0.75, "middle")
        _text(picture, self.labels[0], ((box[0] + box[2]) / 2, _SIZE[1] - 18), 0.6, "middle")
        turned = np.full((34, _SIZE[1], 3), 255, np.uint8)
        _text(turned, self.labels[1], (_SIZE[1] - (box[1] + box[3]) / 2, 24), 0.6, "middle")
        picture[:, :34] = np.rot90(turned)
        return picture

    def _draw_grid(self, picture: NDArray[np.uint8], box: Array, scale: float, middle: Array, center: Array) -> None:
        """Draw lines at round values, with the values beside them, and the two axes."""
        step = _round_step(float(max(box[2:] - box[:2])) / scale / _TICKS)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        for axis in (0, 1):
            sign = 1 if axis == 0 else -1
            ends = sorted(float(middle[axis] + sign * (edge - center[axis]) / scale) for edge in box[axis::2])
            for number in range(math.ceil(ends[0] / step), math.floor(ends[1] / step) + 1):
                at = round(float(center[axis] + sign * (number * step - middle[axis]) * scale))
                text = f"{number * step:.{decimals}f}"
                left, top, right, bottom = (round(edge) for edge in box)
                if axis == 0:
                    cv2.line(picture, (at, top), (at, bottom), _GRID, 1)
                    _text(picture, text, (at, bottom + 30), 0.6, "middle")
                else:
                    cv2.line(picture, (left, at), (right, at), _GRID, 1)
                    _text(picture, text, (left - 10, at + 7), 0.6, "right")
        left, top, right, bottom = (round(edge) for edge in box)
        cv2.line(picture, (left, top), (left, bottom), _BLACK, 2)
        cv2.line(picture, (left, bottom), (right, bottom), _BLACK, 2)

    def _draw_legend(self, picture: NDArray[np.uint8], box: Array, occupied: Array) -> None:
        """Draw the labels of the paths in the corner of the box with the fewest points (n, 2)."""
        width = 90 + max(cv2.getTextSize(path.label, _FONT, 0.6, 1)[0][0] for path in self._paths)
        height = 20 + 32 * len(self._paths)
        corners = [(x, y) for y in (box[1] + 10, box[3] - 10 - height) for x in (box[2] - 10 - width, box[0] + 10)]
        x, y = min(corners, key=lambda corner: int(((occupied >= corner) & (occupied <= np.add(corner, (width, height)))
                                                    ).all(1).sum()))
        left, top = round(float(x)), round(float(y))
        cv2.rectangle(picture, (left, top), (left + width, top + height), (255, 255, 255), cv2.FILLED)
        cv2.rectangle(picture, (left, top), (left + width, top + height), (204, 204, 204), 1, cv2.LINE_AA)
        for row, path in enumerate(self._paths):
            line = top + 26 + 32 * row
            ends = [(left + 14, line), (left + 62, line)] if path.width else []
            _draw_path(picture, path, np.array([*ends[:1], (left + 38, line), *ends[1:]], float), middle_only=True)
            _text(picture, path.label, (left + 76, line + 7), 0.6, "left")


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _draw_path(picture: NDArray[np.uint8], path: _Path, pixels: Array, middle_only: bool = False) -> None:
    """Draw a path at pixels (n, 2); with `middle_only` a dot in its middle only."""
    fixed = np.rint(pixels * 2**_SUBPIXEL).astype(np.int32)
    if path.width and len(fixed) > 1:
        cv2.polylines(picture, [fixed.reshape(-1, 1, 2)], False, path.color, path.width, cv2.LINE_AA, _SUBPIXEL)
    if path.dots:
        for center in fixed[len(fixed) // 2:len(fixed) // 2 + 1] if middle_only else fixed:
            if path.ring:
                cv2.circle(picture, center.tolist(), path.dots << _SUBPIXEL, (255, 255, 255), cv2.FILLED, cv2.LINE_AA,
                           _SUBPIXEL)
            cv2.circle(picture, center.tolist(), path.dots << _SUBPIXEL, path.color, 2 if path.ring else cv2.FILLED,
                       cv2.LINE_AA, _SUBPIXEL)


def _text(picture: NDArray[np.uint8], text: str, at: tuple[float, float], size: float, side: str) -> None:
    """Write text whose left end, middle or right end is at a position on its base line."""
    width = cv2.getTextSize(text, _FONT, size, 1)[0][0]
    x = at[0] - {"left": 0.0, "middle": width / 2, "right": float(width)}[side]
    cv2.putText(picture, text, (round(x), round(at[1])), _FONT, size, _BLACK, 1, cv2.LINE_AA)
