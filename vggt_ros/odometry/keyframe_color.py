"""The color of keyframes whose image came in gray first: made in a thread beside the images, before anybody reads it.

Decoding and rectifying a large image in color takes as long as tracking one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.attached import AttachedRegion
from vggt_ros.threads import give_way
from vggt_ros.windows.frame import Frame

_MAX_FAILED = 1000
"""Keyframes at most whose color could not be made, which windows have to be told; those of older ones are done."""


class KeyframeColor:
    """Makes the images of keyframes."""

    def __init__(self) -> None:
        """Begin without a thread."""
        self._pending: dict[int, Future[None]] = {}
        self._thread: ThreadPoolExecutor | None = None

    def image(self, keyframe: int, frame: Frame, attached: AttachedRegion, is_kept: bool = True) -> NDArray[np.uint8]:
        """Return the image of a frame, RGB uint8 (H, W, 3), without the region that moves with the camera.

        Call `wait` before it is read. If the keyframe is not kept, nobody reads it: it stays gray if it came so.
        """
        if not is_kept:
            return frame.image
        if frame.color is None:
            return attached.blanked(frame.image)
        self._thread = self._thread or ThreadPoolExecutor(1, "vggt_ros_color", give_way)
        pixels = np.empty((*frame.image.shape[:2], 3), np.uint8)
        for known, pending in list(self._pending.items()):
            if pending.done() and (pending.exception() is None or len(self._pending) > _MAX_FAILED):
                del self._pending[known]
        self._pending[keyframe] = self._thread.submit(_fill, pixels, frame, copy.copy(attached))
        return pixels

    def wait(self, keyframes: Iterable[int]) -> None:
        """Wait until the images of these keyframes are made; raises the error of one that could not be."""
        for keyframe in keyframes:
            if (pending := self._pending.get(keyframe)) is not None:
                pending.result()


def _fill(pixels: NDArray[np.uint8], frame: Frame, attached: AttachedRegion) -> None:
    pixels[:] = attached.blanked(frame.rgb)
