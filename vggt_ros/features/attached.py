"""Which part of the image moves with the camera: the robot itself, a gripper, a bonnet, the frame of a windscreen.

Corners on it do not move while all others do. Counted with them, the median motion says that the camera stands still;
and as landmarks they vote for a camera that does not move. Points far away also stand still while the camera moves
straight, but no vehicle and no hand turns as little as the tolerance asks for, over the motion that is asked for.
"""

from __future__ import annotations

import logging

import cv2
import numpy as np
from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
_MAX_DEVIATION = 0.7
"""Largest distance of an attached corner from where it was first seen, ever, px at 640 px."""
_MIN_PATH = 150.0
"""Motion of the other corners meanwhile, summed over the images, px at 640 px."""
_MIN_IMAGES = 15
"""Fewest images meanwhile."""
_MIN_MOVING, _MIN_MOTION = 12, 1.0
"""Fewest corners that move, and least motion from image to image of one that does, px at 640 px."""
_MIN_ATTACHED = 10
"""Fewest attached corners."""
_GRID = (8, 6)
"""Cells, columns and rows, by which the areas of attached and of moving corners are compared."""
_MIN_MOVING_CELLS, _MOVING_TO_ATTACHED = 0.25, 1.2
"""Least share of cells with moving corners, and ratio to those with attached ones: else the camera stands still, and
what moves is people or cars."""
_RADIUS = 0.04
"""Radius around an attached corner that belongs to the region, in longer sides of the image."""
_REPLENISH_EVERY = 10
"""Images between two detections of new corners while most stand still."""
_LIFETIME = 1000
"""Images after which a region is found anew: the robot may have put down what it carried."""


class AttachedRegion:
    """Finds the region from the tracks of corners, image by image.

    Attributes:
        mask: bool (H, W), True where the image moves with the camera; None if it does so nowhere.

    """

    def __init__(self) -> None:
        """Begin without a region."""
        self.mask: NDArray[np.bool_] | None = None
        self._images = self._found_at = 0
        self._path = 0.0
        self.forget_tracks()

    def forget_tracks(self) -> None:
        """Forget the tracks, but not the region, which belongs to the camera."""
        self._ids = np.zeros(0, np.int64)
        self._origin = np.zeros((0, 2), np.float32)
        self._deviation = np.zeros(0, np.float32)  # the largest so far
        self._birth = np.zeros((0, 2))  # path and number of images when it was first seen

    def update(self, ids: NDArray[np.int64], pixels: NDArray[np.float32], motion: NDArray[np.float32],
               shape: tuple[int, int], scale: float) -> None:
        """Take the tracks in the newest image, and update the region.

        Args:
            ids: of the tracks, rising (n,).
            pixels: where they are (n, 2).
            motion: since the previous image (n, 2), NaN for new ones.
            shape: (H, W) of the image.
            scale: factor on thresholds, `threshold_scale`.

        """
        if self.mask is not None and (self.mask.shape != shape or self._images - self._found_at > _LIFETIME):
            self.mask = None
            self.forget_tracks()
        self._images += 1
        moved = np.linalg.norm(np.nan_to_num(motion), axis=1)
        moving = moved > _MIN_MOTION * scale
        if moving.sum() >= _MIN_MOVING:
            self._path += float(np.median(moved[moving])) / scale
        self._match(ids, pixels)
        age = np.array([self._path, self._images]) - self._birth
        attached = (age[:, 0] > _MIN_PATH) & (age[:, 1] > _MIN_IMAGES) & (self._deviation < _MAX_DEVIATION * scale)
        if attached.sum() >= _MIN_ATTACHED and self._is_beside_motion(pixels, attached, shape, scale):
            self._extend(pixels[attached], shape)

    @property
    def needs_corners(self) -> bool:
        """True now and then while most corners stand still: only corners elsewhere can show whether the camera does.

        Corners that move leave the image, those on the robot stay, until there are no others.
        """
        still = (self._deviation < _MAX_DEVIATION) & (self._images - self._birth[:, 1] > _MIN_IMAGES)
        return self._images % _REPLENISH_EVERY == 0 and len(still) > 0 and bool(still.mean() > 0.5)

    def blanked(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image (H, W, 3) whose region has the smoothed colors around it, so that nothing is found there."""
        if self.mask is None or self.mask.shape != image.shape[:2]:
            return image
        outside, size = (~self.mask).astype(np.float32), (2 * (image.shape[1] // 8) + 1,) * 2
        weight = cv2.blur(outside, size)
        smooth = cv2.blur(image.astype(np.float32) * outside[..., None], size) / np.maximum(weight, 1e-3)[..., None]
        smooth[weight < 1e-3] = image[~self.mask].mean(0)
        blanked = image.copy()
        blanked[self.mask] = smooth[self.mask].astype(np.uint8)
        return blanked

    def _match(self, ids: NDArray[np.int64], pixels: NDArray[np.float32]) -> None:
        """Carry over what is known of the tracks."""
        rows = np.searchsorted(self._ids, ids)
        known = rows < len(self._ids)
        known[known] = self._ids[rows[known]] == ids[known]
        origin, deviation = pixels.copy(), np.zeros(len(ids), np.float32)
        birth = np.tile((self._path, float(self._images)), (len(ids), 1))
        origin[known], deviation[known], birth[known] = (values[rows[known]] for values in
                                                         (self._origin, self._deviation, self._birth))
        deviation = np.maximum(deviation, np.linalg.norm(pixels - origin, axis=1).astype(np.float32))
        self._ids, self._origin, self._deviation, self._birth = ids, origin, deviation, birth

    def _is_beside_motion(self, pixels: NDArray[np.float32], attached: NDArray[np.bool_], shape: tuple[int, int],
                          scale: float) -> bool:
        """Return True if corners move in a larger part of the image than that of the attached ones."""
        columns, rows = (pixels / (shape[1], shape[0]) * _GRID).astype(int).T
        cells = rows * _GRID[0] + columns
        moving = len(np.unique(cells[self._deviation > 5 * scale]))
        return moving >= max(_MIN_MOVING_CELLS * _GRID[0] * _GRID[1],
                             _MOVING_TO_ATTACHED * len(np.unique(cells[attached])))

    def _extend(self, pixels: NDArray[np.float32], shape: tuple[int, int]) -> None:
        """Add the surroundings of attached corners (n, 2) to the region, and close the gaps between them."""
        radius = max(2, round(_RADIUS * max(shape)))
        region = np.zeros(shape, np.uint8) if self.mask is None else self.mask.astype(np.uint8)
        for x, y in pixels.astype(int):
            cv2.circle(region, (int(x), int(y)), radius, 1, -1)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        padded = cv2.copyMakeBorder(region, *(4 * [2 * radius]), cv2.BORDER_REPLICATE)  # it reaches the border
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[2 * radius:-2 * radius, 2 * radius:-2 * radius]
        before = 0.0 if self.mask is None else float(self.mask.mean())
        self.mask = closed.astype(np.bool_)
        self._found_at = self._images
        if self.mask.mean() > before + 0.01:
            _LOG.warning("%.0f %% of the image moves with the camera, such as the robot itself; it is left out",
                         100 * self.mask.mean())
