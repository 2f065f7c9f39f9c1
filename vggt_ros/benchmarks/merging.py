"""benchmark merge: a recording cut into parts that are mapped apart and merged, against the map made in one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.benchmarks.recordings import load
from vggt_ros.config import Config
from vggt_ros.evaluation.errors import accuracy
from vggt_ros.geometry.poses import BODY_OPTICAL
from vggt_ros.loops.merging import merge
from vggt_ros.replay.run import run
from vggt_ros.sequences.sequence import Image
from vggt_ros.sequences.sequence import Sequence as Recording


class Cut:
    """The images `begin` to `end` of a recording."""

    def __init__(self, recording: Recording, begin: int, end: int) -> None:
        """Take the images before `end`, from `begin` on."""
        self._recording, self._begin, self._end = recording, begin, min(end, len(recording))
        self.name, self.rectified = f"{recording.name} {begin} to {self._end - 1}", recording.rectified
        self.assumptions, self.omitted, self.truth = recording.assumptions, recording.omitted, recording.truth

    @property
    def camera(self) -> Any:
        """The camera of the recording."""
        return self._recording.camera

    def __len__(self) -> int:
        """Return the number of images."""
        return self._end - self._begin

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield stamps and images."""
        return islice(iter(self._recording), self._begin, self._end)

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the depth images of the recording."""
        return self._recording.depths()
