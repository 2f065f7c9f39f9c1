"""Windows of a recording before they are formed: images are read ahead, and keyframes selected by tracks alone.

Whether an image becomes a keyframe depends on the map only where the tracker adds tracks by it: when the camera is
found again, and where landmarks are matched anew. Selection goes on from there then; what was expected is forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.replay.frames import is_after_jump
from vggt_ros.slam import Slam
from vggt_ros.windows.frame import Frame
from vggt_ros.workers.ahead import AheadReconstructor

_MAX_BYTES = 1_000_000_000
"""Most memory of the images that are read ahead."""


@dataclass(frozen=True, eq=False)
class _Selected:
    """An image that was read ahead, with the ids of the tracks in it, and of the next keyframe and window after it."""

    frame: Frame
    tracks: NDArray[np.int64]
    next_keyframe: int
    next_window: int


class Forecast:
    """Passes on the images of a recording, and tells a reconstructor which windows will be formed of those after them.

    Attributes:
        corrections: how often the selection had to go on from that of the pipeline.

    """

    def __init__(self, slam: Slam, reconstructor: Reconstructor, ahead: AheadReconstructor, config: Config) -> None:
        """Follow the pipeline `slam`, whose windows `ahead` solves; `reconstructor` is what it was created with."""
        self._slam, self._ahead = slam, ahead
        self._selection = Slam(config, reconstructor)  # it never solves a window, so it has no map
        self._selection.selection = deepcopy(slam.selection)
        self._read: deque[_Selected] = deque()
        self._at_end = False
        self.corrections = 0

    def frames(self, source: Iterator[Frame]) -> Iterator[Frame]:
        """Yield the images of `source`; each has to be tracked before the next one is taken.

        Raises what `source` raises, after the images before.
        """
        error: Exception | None = None
        while True:
            while not (self._at_end or self._ahead.is_full or self._is_full()):
                try:
                    self._select(next(source))
                except StopIteration:
                    self._end()
                except Exception as raised:
                    error = raised
                    self._end()
            if not self._read:
                if error is not None:
                    raise error
                return
            selected = self._read.popleft()
            yield selected.frame
            if not self._holds(selected):
                self._correct()

    @property
    def figures(self) -> dict[str, int]:
        """The figures of the reconstructor, and how often the selection was corrected."""
        return {**self._ahead.figures, "corrections": self.corrections}

    def _is_full(self) -> bool:
        return bool(self._read) and len(self._read) * self._read[-1].frame.image.nbytes > _MAX_BYTES

    def _select(self, frame: Frame) -> None:
        """Select keyframes up to an image."""
        if is_after_jump(self._selection, frame):
            self._flush()
            self._selection.interrupt()
        window = self._selection.track(frame).window
        tracks, _, buffer, next_keyframe = self._selection.selection
        self._read.append(_Selected(frame, tracks.ids, next_keyframe, buffer.next_window))
        if window is not None:
            self._ahead.expect(window)

    def _end(self) -> None:
        self._at_end = True
        self._flush()

    def _flush(self) -> None:
        window = self._selection.flush()
        if window is not None:
            self._ahead.expect(window)

    def _holds(self, selected: _Selected) -> bool:
        """Return whether the pipeline has selected as expected up to an image."""
        tracks, _, buffer, next_keyframe = self._slam.selection
        return (next_keyframe == selected.next_keyframe and buffer.next_window == selected.next_window
                and np.array_equal(tracks.ids, selected.tracks))

    def _correct(self) -> None:
        """Go on from the selection of the pipeline."""
        self.corrections += 1
        self._ahead.forget()
        self._selection.selection = deepcopy(self._slam.selection)
        frames = [selected.frame for selected in self._read]
        self._read.clear()
        for frame in frames:
            self._select(frame)
        if self._at_end:
            self._end()
