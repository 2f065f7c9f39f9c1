"""Oracles for workers, which create them by name in other processes, and a short sequence with a gap."""

from __future__ import annotations

import os
import signal
import time
from functools import cache

import numpy as np

from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import Array
from vggt_ros.sequences.sequence import Omitted
from vggt_ros.synthetic import OracleNoise, Scene, SceneReconstructor, laps, pinhole, room

SIZE, START = (320, 240), 1_700_000_000_000_000_000
NOISE = OracleNoise(scale=0.5, rotation=0.002, translation=0.002, depth=0.02)


def poses() -> Array:
    return laps(220, laps=1.3)[:150]


@cache
def scene_() -> Scene:
    return room(texel=0.01)


@cache
def images() -> list[np.ndarray]:
    intrinsics, scene = pinhole(*SIZE), scene_()
    return [scene.render(pose, intrinsics, SIZE)[0] for pose in poses()]


class Recording:
    """The rendered images; those in `covered` are black, and after them the camera goes on `behind` images earlier."""

    rectified, assumptions, name = True, (), "rendered"

    def __init__(self, count: int = 150, covered: range = range(0), behind: int = 0) -> None:
        self.camera, self.omitted = Camera(*SIZE, pinhole(*SIZE)), Omitted()
        self._covered, self._rows = covered, [i - behind * (i >= covered.stop > 0) for i in range(count)]
        self.truth = (START + 100_000_000 * np.arange(count), poses()[self._rows])

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self):
        for number, (stamp, row) in enumerate(zip(self.truth[0].tolist(), self._rows, strict=True)):
            yield stamp, np.zeros_like(images()[0]) if number in self._covered else images()[row]

    def depths(self):
        return iter(())


class Chained(SceneReconstructor):
    """Its results depend on all windows before, those around loops excepted, as those of a local map do."""

    carries = "always"
    _before = (0.0, -1)

    @property
    def carried(self):
        return self._before

    @carried.setter
    def carried(self, values):
        self._before = values

    def reconstruct(self, window):
        total, newest = self._before
        self.noise = OracleNoise(NOISE.scale, NOISE.rotation * (1 + total % 1), NOISE.translation, NOISE.depth)
        if window.id > newest:
            self._before = 0.7 * total + np.log(window.id + 2.0), window.id
        return super().reconstruct(window)


def create(config, progress, chained=False, recording=(150, range(0), 0), seconds=0.0, kill_file="", once=True):
    """Create an oracle; it sleeps for `seconds`, and kills its process in window 3, `once` or always."""
    truth = Recording(*recording).truth
    kind = Chained if chained else SceneReconstructor

    class Slow(kind):
        def reconstruct(self, window):
            time.sleep(seconds)
            if kill_file and window.id == 3 and not (once and os.path.exists(kill_file)):
                open(kill_file, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().reconstruct(window)

    return Slow(scene_(), truth[0], truth[1], NOISE), "a test"
