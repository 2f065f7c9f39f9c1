"""Interface of a sequence of recorded images, whatever its source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import Array
from vggt_ros.storage.files import FileError

Image = NDArray[np.uint8]
Truth = tuple[NDArray[np.int64], Array]


_MAX_REASONS = 10
"""Most kinds of reasons that are listed."""
_MAX_EXAMPLES, _MAX_NAMED = 50, 3
"""Most reasons of a kind, such as sizes, that are told apart, and that are listed beside the first one."""


class SequenceError(FileError):
    """A sequence cannot be opened or read further; the text names the file or folder."""


class Omitted:
    """The images of a sequence that were left out, by the reason.

    Attributes:
        count: how many.

    """

    def __init__(self) -> None:
        """Begin without any."""
        self.clear()

    def clear(self) -> None:
        """Forget all, at the beginning of another pass."""
        self.count = 0
        self._counts: Counter[str] = Counter()
        self._first: dict[str, dict[str, str]] = {}
        self._of_reason: Counter[str] = Counter()

    def add(self, name: str, reason: str) -> None:
        """Count an image, by its name, and why it is left out."""
        self.count += 1
        kind = re.sub(r"\d+", "#", reason)  # the same with other numbers
        self._counts[kind] += 1
        first = self._first.setdefault(kind, {})
        if reason in first or len(first) < _MAX_EXAMPLES:
            first.setdefault(reason, name)
            self._of_reason[reason] += 1

    @property
    def lines(self) -> list[str]:
        """One line for each kind of reason: how many images, and the first of each reason, such as another size."""
        return [self._line(kind, count) for kind, count in self._counts.most_common(_MAX_REASONS)]

    def _line(self, kind: str, count: int) -> str:
        (reason, name), *others = self._first[kind].items()
        others = sorted(others, key=lambda item: -self._of_reason[item[0]])[:_MAX_NAMED]
        rest = count - sum(self._of_reason[one] for one in (reason, *(other for other, _ in others)))
        start = f"{count} images left out, the first is" if count > 1 else "1 image left out,"
        return (f"{start} {name}: {reason}"
                + "".join(f"; {self._of_reason[other]} like {first}: {other}" for other, first in others)
                + (f"; and {rest} others" if rest else ""))


class Sequence(Protocol):
    """Images in order of time.

    Attributes:
        name: for reports.
        camera: of the images as they are.
        rectified: whether the images are rectified already, whatever distortion the camera has.
        assumptions: one line for each thing that is assumed because the recording does not have it.
        omitted: the images that the newest iteration left out, since they cannot be used.

    """

    name: str
    camera: Camera
    rectified: bool
    assumptions: tuple[str, ...]
    omitted: Omitted

    @property
    def truth(self) -> Truth | None:
        """Stamps, nanoseconds (n,), and poses `world_camera` (n, 4, 4) in optical axes; None if they are not known."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield stamp, nanoseconds, and image, RGB uint8 (H, W, 3), of the size of `camera`, which may change before.

        Images that cannot be used are left out; raises SequenceError where the recording cannot be read further.
        """
        ...

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield stamp and sensor depth (H, W) registered to the image, meters along the optical axis, NaN: unknown."""
        ...
