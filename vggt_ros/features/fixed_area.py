"""Parts of the image that never move while all else flows: the robot's own body, burnt-in text, dirt on the lens.

A corner there is tracked perfectly, and says nothing of the camera's motion. It is found by its staying within half a
pixel of one place while most of the image moves, coherently, over many images: a far point does so only if the camera
neither turns nor shakes. Some corners in such parts are watched further, and if they move the part is used again.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]

_CELL = 20.0
"""Side of a cell of the mask, px at 640 px width."""
_MAX_OFFSET = 0.6
"""Largest distance of a fixed corner to where it began, px at 640 px width."""
_MIN_IMAGES = 10
"""Images with flow over which a corner has to stay."""
_MIN_MOTION = 1.5
"""Motion of a corner that flows, from image to image, px at 640 px width."""
_MIN_FLOWING = 0.5
"""Fraction of the coarse cells with corners that must flow."""
_MIN_COHERENT = 0.6
"""Fraction of the flowing corners that must agree on an affine motion, as a camera's motion makes it."""
_COARSE = 4, 6
"""Rows and columns of the coarse cells."""


class FixedArea:
    """The part of the image that never moves, by the corners that were tracked in it.

    Attributes:
        mask: bool (rows, columns), cells that do not move; empty before the first image.
        probes: float32 (k, 2), corners in these cells, which are tracked only to notice that they move.

    """

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.mask: Mask = np.zeros((0, 0), bool)
        self.probes: Pixels = np.zeros((0, 2), np.float32)
        self._anchors: Pixels = np.zeros((0, 2), np.float32)
        self._cell = np.ones(2, np.float32)  # width and height of a cell

    def masked(self) -> Mask | None:
        """Return the mask of the part that does not move; None if there is none."""
        return self.mask if self.mask.any() else None

    def update(self, still: NDArray[np.int64], anchors: Pixels, pixels: Pixels, motion: Pixels,
               shape: tuple[int, int]) -> tuple[NDArray[np.int64], Pixels]:
        """Take note of the corners tracked into a new image; return how long each is still now, and its anchor.

        Args:
            still: (n,), number of images with flow for which each corner has stayed at its anchor.
            anchors: (n, 2), where each was when it began to stay.
            pixels: (n, 2), where they are.
            motion: (n, 2), since the image before.
            shape: of the image (H, W).

        """
        scale = shape[1] / 640.0
        if not self.mask.size:
            self.mask = np.zeros((max(1, round(shape[0] / (_CELL * scale))), round(640 / _CELL)), bool)
            self._cell = np.array([shape[1] / self.mask.shape[1], shape[0] / self.mask.shape[0]], np.float32)
        stays = np.linalg.norm(pixels - anchors, axis=1) < _MAX_OFFSET * scale
        anchors = np.where(stays[:, None], anchors, pixels)
        still = np.where(stays, still, 0)
        candidates = stays & (np.linalg.norm(motion, axis=1) < _MAX_OFFSET * scale)
        if candidates.any() and _flows(pixels, motion, scale, shape):
            still = still + candidates
            fixed = still >= _MIN_IMAGES
            if fixed.sum() >= (1 if self.mask.any() else 3):
                self._add(pixels[fixed])
        return still, anchors

    def watch(self, probes: Pixels, tracked: Mask, scale: float) -> None:
        """Take note of where the probes (k, 2) are in a new image, and which were tracked; `scale` is width / 640."""
        moved = np.linalg.norm(probes - self._anchors, axis=1) > 2 * _MAX_OFFSET * scale
        rows, columns = self._cells(self._anchors)
        balance = np.zeros(self.mask.shape, np.float32)
        np.add.at(balance, (rows[tracked], columns[tracked]), np.where(moved[tracked], 1.0, -1.0))
        # Without any probe around, a cell is used again: if it is still fixed, that will be found again.
        self.mask &= cv2.boxFilter(balance, -1, (5, 5), normalize=False) < 0
        kept = tracked & ~moved & self.mask[rows, columns]
        self.probes, self._anchors = probes[kept], self._anchors[kept]

    def _add(self, pixels: Pixels) -> None:
        """Add the cells of fixed corners, and those around them; the corners become probes."""
        rows, columns = self._cells(pixels)
        new = np.zeros(self.mask.shape, np.uint8)
        new[rows, columns] = 1
        mask = self.mask | (cv2.dilate(new, np.ones((3, 3), np.uint8)) > 0)
        self.mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
        self.probes = np.concatenate([self.probes, pixels])[-300:]
        self._anchors = np.concatenate([self._anchors, pixels])[-300:]

    def _cells(self, pixels: Pixels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        cells = (pixels / self._cell).astype(np.int64)
        return np.clip(cells[:, 1], 0, self.mask.shape[0] - 1), np.clip(cells[:, 0], 0, self.mask.shape[1] - 1)


def _flows(pixels: Pixels, motion: Pixels, scale: float, shape: tuple[int, int]) -> bool:
    """Return whether most of the image moves, and as the image of one rigid scene does."""
    flowing = np.linalg.norm(motion, axis=1) > _MIN_MOTION * scale
    if flowing.sum() < 20:
        return False
    rows = np.clip(pixels[:, 1] * _COARSE[0] / shape[0], 0, _COARSE[0] - 1).astype(int)
    columns = np.clip(pixels[:, 0] * _COARSE[1] / shape[1], 0, _COARSE[1] - 1).astype(int)
    corners, moving = np.zeros(_COARSE), np.zeros(_COARSE)
    np.add.at(corners, (rows, columns), 1)
    np.add.at(moving, (rows, columns), flowing)
    occupied = corners >= 3
    if (moving > corners / 2)[occupied].mean() < _MIN_FLOWING:
        return False
    limit = max(2.0 * scale, 0.2 * float(np.median(np.linalg.norm(motion[flowing], axis=1))))
    _, inliers = cv2.estimateAffine2D(pixels[flowing] - motion[flowing], pixels[flowing], method=cv2.RANSAC,
                                      ransacReprojThreshold=limit, maxIters=200)
    return inliers is not None and float(inliers.mean()) >= _MIN_COHERENT
