"""Keyframes, windows of them, and the sliding buffer that forms windows under back-pressure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A frame that the reconstructor will see.

    Attributes:
        id: number of the keyframe; never reused, rising with time.
        stamp: nanoseconds, exactly the message's.
        image: rectified RGB, uint8 (H, W, 3), at the reconstructor's working size.
        intrinsics: pinhole matrix, float64 (3, 3), for this size; integer coordinates are pixel centers.
        calibrated: False if `intrinsics` are only assumed.

    """

    id: int
    stamp: int
    image: NDArray[np.uint8]
    intrinsics: NDArray[np.float64]
    calibrated: bool = True


@dataclass(frozen=True, eq=False)
class Window:
    """Keyframes that are reconstructed at once, oldest first; `shared` are the ids that the window before had too."""

    id: int
    keyframes: tuple[Keyframe, ...]
    shared: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of its keyframes."""
        return tuple(keyframe.id for keyframe in self.keyframes)
