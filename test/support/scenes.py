"""Sequences of exact frames that several tests share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from vggt_ros.config import Config
from vggt_ros.geometry.poses import Array, Sim3, umeyama
from vggt_ros.slam import Slam
from vggt_ros.synthetic import SceneReconstructor, laps, pinhole, room
from vggt_ros.windows.frame import Frame, TrackedFrame
from vggt_ros.windows.solution import Update

SIZE = (320, 240)


@dataclass(frozen=True, eq=False)
class Sequence:
    """Rendered frames with their exact poses `world_camera` (n, 4, 4)."""

    frames: tuple[Frame, ...]
    world_camera: Array

    def oracle(self, kind: type[SceneReconstructor] = SceneReconstructor, **details: Any) -> SceneReconstructor:
        """Return a reconstructor that returns the true geometry."""
        return kind(room(), [f.stamp for f in self.frames], self.world_camera, **details)

    def truth(self, stamps: Array) -> Array:
        """Return the true poses (n, 4, 4) at `stamps` (n,)."""
        rows = {frame.stamp: row for row, frame in enumerate(self.frames)}
        return self.world_camera[[rows[int(stamp)] for stamp in stamps]]


@cache
def lap(count: int = 104, laps_: float = 0.6) -> Sequence:
    """Return a path around the room."""
    scene, intrinsics = room(), pinhole(*SIZE)
    poses = laps(count, laps=laps_)
    return Sequence(tuple(Frame(1_700_000_000_123_456_789 + 100_000_000 * i, scene.render(p, intrinsics, SIZE)[0],
                                intrinsics) for i, p in enumerate(poses)), poses)


@dataclass(eq=False)
class Run:
    """The results of a sequence."""

    slam: Slam
    tracked: list[TrackedFrame]
    updates: list[Update]


def run(sequence: Sequence, config: Config, reconstructor: object, drop: tuple[int, ...] = (),
        follows_map: bool = True) -> Run:
    """Run a sequence through the pipeline as replay does; windows with the ids in `drop` are not processed.

    Without `follows_map`, for tests of poses, there are no points of the map, which take half of the time of a window.
    """
    slam = Slam(config, reconstructor)  # type: ignore[arg-type]
    slam.follows_map = follows_map
    tracked, updates = [], []
    for frame in sequence.frames:
        tracked.append(slam.track(frame))
        window = tracked[-1].window
        if window is not None and window.id not in drop:
            updates.append(slam.step(window))
    last = slam.flush()
    if last is not None:
        updates.append(slam.step(last))
    return Run(slam, tracked, updates)


def trajectory_error(stamps: Array, poses: Array, sequence: Sequence) -> tuple[float, Sim3]:
    """Return the largest position error in meters after alignment by a similarity, and this similarity."""
    truth = sequence.truth(stamps)
    world_map = umeyama(poses[:, :3, 3], truth[:, :3, 3])
    return float(np.linalg.norm(world_map.apply(poses[:, :3, 3]) - truth[:, :3, 3], axis=1).max()), world_map
