"""Keyframes, windows of them, and the sliding buffer that forms windows under back-pressure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import WindowConfig


@dataclass(frozen=True, eq=False)
class Corners:
    """What is followed from image to image, where it stands in one of them.

    Attributes:
        ids: int64 (k,), rising; the same corner has the same id in every image.
        pixels: float32 (k, 2), x and y.
        velocity: float32 (k, 2), pixels a second; NaN for corners that are new.

    """

    ids: NDArray[np.int64]
    pixels: NDArray[np.float32]
    velocity: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class BinaryFeatures:
    """ORB features of an image: pixels (m, 2), x and y, and what they look like, uint8 (m, 32)."""

    pixels: NDArray[np.float32]
    looks: NDArray[np.uint8]

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.pixels)


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A frame that the reconstructor will see.

    Attributes:
        id: number of the keyframe; never reused, rising with time.
        stamp: nanoseconds, exactly the message's.
        image: rectified RGB, uint8 (H, W, 3), at the reconstructor's working size.
        intrinsics: pinhole matrix, float64 (3, 3), for this size; integer coordinates are pixel centers.
        calibrated: False if `intrinsics` are only assumed.
        corners: those that tracking follows: they lead from one keyframe to the next however far apart they are, and
            a rolling shutter shifts every row by its velocity. None if nothing was tracked.
        map_camera: 4x4, where the tracker took it to be in the map; None if it did not know.
        binary: its binary features; None if they were not looked for yet.

    """

    id: int
    stamp: int
    image: NDArray[np.uint8]
    intrinsics: NDArray[np.float64]
    calibrated: bool = True
    corners: Corners | None = None
    map_camera: NDArray[np.float64] | None = None
    binary: BinaryFeatures | None = None


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


class SlidingBuffer:
    """Forms windows of `size` keyframes that share `overlap` with the window before.

    While the reconstructor has no room for another window, keyframes that wait here are thinned, always the one whose
    removal leaves the smallest gap. A formed window is never dropped.

    Attributes:
        thinned: keyframes removed so far.
        next_window: id of the next window.

    """

    def __init__(self, config: WindowConfig) -> None:
        """Form windows as `config` says."""
        self._config = config
        self.next_window = 0
        self.clear()

    def clear(self) -> None:
        """Forget the waiting keyframes and the count; window ids go on."""
        self.thinned = 0
        self._keyframes: list[Keyframe] = []
        self._gaps: list[int] = []
        self._shared = 0

    def add(self, keyframe: Keyframe, room: bool = True) -> Window | None:
        """Take a keyframe; return a window if it completes one and there is `room` for it."""
        self._keyframes.append(keyframe)
        self._gaps.append(1)
        if len(self._keyframes) < self._config.size:
            return None
        if room:
            return self._emit()
        self._thin()
        return None

    def flush(self) -> Window | None:
        """Return the partial window, with its true overlap, or None if it would hold nothing new or a single frame."""
        if len(self._keyframes) == self._shared or len(self._keyframes) < 2:
            return None
        return self._emit()

    def cut(self) -> Window | None:
        """Return what `flush` does, and share nothing of it: what follows has nothing in common with what was.

        A single keyframe that is left over is counted with those thinned.
        """
        window = self.flush()
        if window is None:
            self.thinned += len(self._keyframes) - self._shared
        self._keyframes, self._gaps, self._shared = [], [], 0
        return window

    def _emit(self) -> Window:
        window = Window(self.next_window, tuple(self._keyframes),
                        tuple(keyframe.id for keyframe in self._keyframes[: self._shared]))
        self.next_window += 1
        self._keyframes = self._keyframes[-self._config.overlap:]
        self._gaps = self._gaps[-self._config.overlap:]
        self._shared = len(self._keyframes)
        return window

    def _thin(self) -> None:
        """Remove the keyframe, neither shared nor newest, whose neighbors then lie closest together."""
        candidates = range(self._shared, len(self._keyframes) - 1)
        if not candidates:
            return
        victim = min(candidates, key=lambda i: self._gaps[i] + self._gaps[i + 1])
        self._gaps[victim + 1] += self._gaps[victim]
        del self._keyframes[victim], self._gaps[victim]
        self.thinned += 1
