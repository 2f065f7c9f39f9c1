"""The images of a sequence as `Slam.track` takes them: rectified, at the reconstructor's working size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Rectifier
from vggt_ros.images.interlaced import Deinterlacer
from vggt_ros.images.mask import read_mask
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.sequences.intake import darkness
from vggt_ros.sequences.sequence import Sequence
from vggt_ros.sequences.stamps import Order, StampCheck
from vggt_ros.slam import Slam
from vggt_ros.windows.frame import Frame


def rectifier(sequence: Sequence, reconstructor: Reconstructor, config: Config) -> Rectifier:
    """Return what rectifies the images of a sequence, by its calibration and the setting `camera.rectified`."""
    rectified = config.camera.rectified == "true" or (config.camera.rectified == "auto" and sequence.rectified)
    return Rectifier(sequence.camera, reconstructor.image_size(sequence.camera), rectified)


class FrameMaker:
    """Makes frames of the images of a sequence, whose calibration may change on the way.

    Attributes:
        rectify: of the present calibration.

    """

    def __init__(self, sequence: Sequence, reconstructor: Reconstructor, config: Config) -> None:
        """Prepare for the calibration that the sequence has now; raises ConfigError for a bad `camera.mask`."""
        self._sequence, self._reconstructor, self._config = sequence, reconstructor, config
        self._deinterlace = Deinterlacer()
        self._prepare()

    def _prepare(self) -> None:
        self.rectify = rectifier(self._sequence, self._reconstructor, self._config)
        self._excluded = read_mask(self._config.camera.mask, self.rectify)

    def __call__(self, stamp: int, image: NDArray[np.uint8]) -> Frame:
        """Return the newest image of the sequence as a frame."""
        camera = self._sequence.camera
        if camera is not self.rectify.camera:  # a bag has another calibration from here on
            self._prepare()
        rectified = self.rectify(self._deinterlace(image))
        return Frame(stamp, rectified, self.rectify.intrinsics, camera.calibrated, self._excluded)


class FrameSource:
    """The frames of a sequence.

    Attributes:
        dropped: images left out so far because they are no newer than the one before.
        jumps: of time, so far.
        dark: stamps of the frames in which nothing can be seen.

    """

    def __init__(self, sequence: Sequence, make_frame: FrameMaker, max_step: float) -> None:
        """Prepare; a step back in time by more than `max_step` seconds is a jump, not an image that is late."""
        self._sequence, self._make_frame, self._stamps = sequence, make_frame, StampCheck(max_step)
        self.dropped = 0
        self.jumps: list[str] = []
        self.dark: set[int] = set()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; raises SequenceError where the recording cannot be read."""
        for stamp, image in self._sequence:
            order = self._stamps.check(stamp)
            if order is Order.LATE:
                self.dropped += 1
                continue
            if order is Order.JUMP:
                self.jumps.append(f"{self._stamps.reason}, to {stamp} ns")
            if darkness(image):
                self.dark.add(stamp)
            yield self._make_frame(stamp, image)


def is_after_jump(slam: Slam, frame: Frame) -> bool:
    """Return whether time jumped back before a frame, which then does not continue those that `slam` has tracked."""
    return frame.stamp < slam.selection[1].stamp


def frames(sequence: Sequence, reconstructor: Reconstructor, config: Config | None = None) -> Iterator[Frame]:
    """Yield the images of a sequence as frames; raises SequenceError where the recording breaks off."""
    make = FrameMaker(sequence, reconstructor, config or Config())
    for stamp, image in sequence:
        yield make(stamp, image)
