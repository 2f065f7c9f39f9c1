"""Parts of the image that are left out: from a picture that the user gives, or found by tracking.

A mask is a boolean array (h, w) of any size, True where the image is left out; it covers the whole image.
"""

from __future__ import annotations

import os

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Rectifier
from vggt_ros.settings import ConfigError

Mask = NDArray[np.bool_]

_STEP = 8
"""Pixels of the image for one of the mask, along each side."""


def read_mask(path: str, rectifier: Rectifier) -> Mask | None:
    """Return the mask of the setting `camera.mask` for rectified images; None if the setting is empty.

    The picture shows the image as the camera sends it; what is black (darker than half) in it is left out.

    Raises:
        ConfigError: the picture cannot be read, has another aspect ratio than the images, or leaves nothing.

    """
    if not path:
        return None
    picture = cv2.imread(os.path.expanduser(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise ConfigError(f"camera.mask: {path} is not a readable picture; give a PNG or JPEG of the size of the "
                          "camera's images, black where they are to be left out")
    camera = rectifier.camera
    if abs(picture.shape[1] / picture.shape[0] * camera.height / camera.width - 1) > 0.02:
        raise ConfigError(f"camera.mask: {path} has {picture.shape[1]}x{picture.shape[0]} pixels, the camera's images "
                          f"have {camera.width}x{camera.height}; the aspect ratio must be the same")
    full = cv2.resize(picture, (camera.width, camera.height), interpolation=cv2.INTER_NEAREST)
    rectified = rectifier(np.asarray(cv2.cvtColor(full, cv2.COLOR_GRAY2RGB), np.uint8))[..., 0]
    mask = reduced(rectified < 128)
    if mask.mean() > 0.95:
        raise ConfigError(f"camera.mask: {path} leaves nothing of the image; black is left out, white is used")
    return mask if mask.any() else None


def reduced(mask: Mask) -> Mask:
    """Return a mask of the size of the image (H, W) at the size in which masks are stored."""
    height, width = mask.shape
    size = (-(-width // _STEP), -(-height // _STEP))
    return np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.01)


def union(first: Mask | None, second: Mask | None) -> Mask | None:
    """Return what either mask leaves out, of the size of the first; None leaves nothing out."""
    if first is None or second is None:
        return second if first is None else first
    return first | resized(second, first.shape)


def resized(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Return a mask for an image of another size (h, w)."""
    return np.asarray(cv2.resize(mask.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST) > 0)


def free_pixels(mask: Mask | None, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Return 255 where the image (H, W) of this `shape` is used and 0 where not, or None if all of it is."""
    return None if mask is None else np.where(resized(mask, shape), 0, 255).astype(np.uint8)


def is_masked(mask: Mask | None, pixels: NDArray[np.floating], shape: tuple[int, ...]) -> Mask:
    """Return which pixels (n, 2) of an image (H, W) of this `shape` are left out."""
    if mask is None or not len(pixels):
        return np.zeros(len(pixels), np.bool_)
    at = np.clip((pixels + 0.5) * [mask.shape[1] / shape[1], mask.shape[0] / shape[0]], 0,
                 [mask.shape[1] - 1, mask.shape[0] - 1]).astype(int)
    return mask[at[:, 1], at[:, 0]]
