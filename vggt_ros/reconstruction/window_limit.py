"""How many images are solved at once: as many as fit by the memory model, and by allocations that have failed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.joining import part_size

log = logging.getLogger(__name__)
_MARGIN = 1.1
"""Factor by which free memory has to exceed the need, or what was free at a failure, before more images are tried."""


class WindowLimit:
    """The largest number of images that are solved at once; it falls when memory is short, and rises when it is back.

    Attributes:
        most: the limit.
        reason: why it is below the size of a window; empty if it is not.

    """

    def __init__(self, overlap: int, name: str, cure: str = "use smaller images") -> None:
        """Begin without a limit.

        Args:
            overlap: keyframes that parts of a window share.
            name: of the reconstructor, for the log.
            cure: what helps where two images do not fit.

        """
        self._overlap, self._name, self._cure = overlap, name, cure
        self.most = 10**6
        self.reason = ""
        self._failed, self._free_at_failure = 10**6, 0.0

    def update(self, count: int, needed: Callable[[int], float], free: float, images: str) -> None:
        """Adapt the limit to the memory that is free now, for a window of `count` images.

        Args:
            count: number of images of the window.
            needed: returns the bytes for a number of images, by the memory model.
            free: bytes that are available.
            images: size of the images, for messages.

        Raises:
            ReconstructionRefused: not even two images fit.

        """
        if count > self.most:
            self._raise(count, needed, free)
        fits = min(count, self.most)
        while fits > 1 and needed(fits) > free:
            self._reduce(fits, f"{fits} images of {images} need about {needed(fits) / 1e9:.2f} GB in addition to the "
                         f"weights, {free / 1e9:.2f} are available")
            fits = self.most

    def fail(self, count: int, free: float, reason: str) -> None:
        """Reduce the limit, because memory ran out with `count` images at once; `free` bytes are available now.

        Raises:
            ReconstructionRefused: these were two images.

        """
        self._failed, self._free_at_failure = count, free
        self._reduce(count, reason)

    def _raise(self, count: int, needed: Callable[[int], float], free: float) -> None:
        """Raise the limit if there is memory for more images, with some to spare."""
        more = count
        while more > self.most:
            blocked = more >= self._failed and not (math.isfinite(free) and free > _MARGIN * self._free_at_failure)
            if not blocked and _MARGIN * needed(more) <= free:
                break
            if more <= 2:
                return
            more = part_size(more, self._overlap)
        if more <= self.most:
            return
        self.most = 10**6 if more == count else more
        self.reason = "" if more == count else f"windows of more than {more} images: {self.reason.partition(': ')[2]}"
        log.info("%s: memory is back: windows of %s are solved at once", self._name,
                 "any size" if more == count else f"up to {more} images")

    def _reduce(self, count: int, reason: str) -> None:
        if count <= 2:
            raise ReconstructionRefused(f"{reason}, with two images; {self._cure}")
        self.most = part_size(count, self._overlap)
        self.reason = f"windows of more than {self.most} images: {reason}"
        log.warning("%s: %s; windows of more than %d images are split", self._name, reason, self.most)
