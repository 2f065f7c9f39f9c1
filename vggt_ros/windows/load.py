"""What is given up while windows are solved more slowly than keyframes come.

A window that waits makes the map late. Keyframes farther apart need fewer windows for the same path: that is decided
before they are made. If too many wait all the same, those that wait are thinned, evenly.
"""

from __future__ import annotations

from dataclasses import dataclass

_PARALLAX = 0.6
"""Additional parallax for each window that waits, as a fraction of the usual one: with two of them, the reconstructor
may be half as fast as the camera needs."""


@dataclass(frozen=True)
class Load:
    """How far the reconstructor is behind.

    Attributes:
        busy: whether it solves a window; keyframes wait meanwhile.
        waiting: windows that wait for it, without the one in progress, and those that the waiting keyframes make.
        most: the setting `windows.max_waiting`; where as many wait, keyframes are thinned.
        spare_images: how many images that had no pose when they came may be located now; none while the next image
            waits.

    """

    busy: bool = False
    waiting: int = 0
    most: int = 2
    spare_images: int = 3

    @property
    def spacing(self) -> float:
        """Factor by which keyframes are farther apart than usual."""
        return 1.0 + _PARALLAX * self.waiting

    @property
    def given_up(self) -> str:
        """What is given up at present, in words; empty if nothing is."""
        if not self.waiting:
            return ""
        windows = "1 window waits" if self.waiting == 1 else f"{self.waiting} windows wait"
        thinned = "" if self.waiting < self.most else "; those that wait are thinned"
        return f"{windows} for the reconstructor: keyframes are {self.spacing:.1f} times as far apart{thinned}"
