"""A rendered sequence with the interface of recorded ones (`vggt_ros.sequences.sequence.Sequence`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import Array
from vggt_ros.sequences.sequence import Omitted
from vggt_ros.synthetic.paths import laps, orbit
from vggt_ros.synthetic.rooms import cabinet, room
from vggt_ros.synthetic.scene import Scene, pinhole

START = 1_700_000_000_123_456_789
"""Stamp of the first image: a float64 of seconds cannot hold it, so that tests detect stamps converted to one."""


class RenderedSequence:
    """Images of a scene from given poses, rendered while iterating.

    Attributes:
        imu: stamps (n,) and samples (n, 6), rad/s and m/s^2, of an IMU in the camera's position and axes; or None.

    """

    rectified = False
    assumptions: tuple[str, ...] = ()
    imu: tuple[NDArray[np.int64], Array] | None = None

    def __init__(self, name: str, scene: Scene, world_camera: Array, size: tuple[int, int] = (640, 480),
                 rate: float = 15.0, noise: float = 0.0) -> None:
        """Render `scene` from `world_camera` (n, 4, 4), `rate` images a second, with a field of view of 65 degrees.

        `noise` is the standard deviation of white noise in each channel, gray values.
        """
        self.name, self.scene, self.omitted, self._noise = name, scene, Omitted(), noise
        self.camera = Camera(*size, pinhole(*size))
        stamps = START + np.round(np.arange(len(world_camera)) * 1e9 / rate).astype(np.int64)
        self.truth = stamps, world_camera

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.truth[0])

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield stamp and image."""
        rng = np.random.default_rng(0)
        for stamp, world_camera in zip(*self.truth, strict=True):
            image = self.scene.render(world_camera, self.camera.intrinsics, self._size)[0]
            if self._noise:
                image = np.clip(image + rng.normal(0, self._noise, image.shape), 0, 255).astype(np.uint8)
            yield int(stamp), image

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield stamp and exact depth of every image."""
        for stamp, world_camera in zip(*self.truth, strict=True):
            yield int(stamp), self.scene.depth(world_camera, self.camera.intrinsics, self._size)

    @property
    def _size(self) -> tuple[int, int]:
        return self.camera.width, self.camera.height


def demo_sequence(count: int = 450) -> RenderedSequence:
    """Return the demo: two laps of 8.2 m each around a furnished room of 5 x 4 m."""
    return RenderedSequence("demo_room", room(), laps(count))


def cabinet_sequence(count: int = 58) -> RenderedSequence:
    """Return a walk around a dark cabinet on a plain floor, in steps of 0.28 m and 6 degrees."""
    around = orbit(count, radius=2.6, height=1.5, degrees=360 * (count - 1) / count)
    return RenderedSequence("cabinet", cabinet(), around, rate=5.0, noise=2.0)


RENDERED = {"demo_room": demo_sequence, "cabinet": cabinet_sequence}
"""What makes the rendered sequences, by their names."""
