"""A trajectory whose metric scale is to be estimated: windows go straight into the mapper, sources are ideal."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import numpy as np
from scenes import SIZE

from vggt_ros.config import Config
from vggt_ros.geometry.poses import inverse, pose, so3_exp, umeyama
from vggt_ros.slam import Slam
from vggt_ros.synthetic import SceneReconstructor, laps, pinhole, room
from vggt_ros.synthetic.sequence import START
from vggt_ros.windows.keyframe import Keyframe, Window

SMALL = Config().replace({"windows.size": 5, "windows.overlap": 2})


POSES = laps(200, laps=1.2)
STAMPS = START + 10**8 * np.arange(len(POSES))
VIEW, BLANK = pinhole(*SIZE), np.zeros((*SIZE[::-1], 3), np.uint8)
"""Ten meters in twenty seconds; images are blank, because the oracle does not use them."""


class CachingReconstructor(SceneReconstructor):
    """Solves each window once for all tests."""

    solved: ClassVar = {}

    def reconstruct(self, window):
        key = id(self), window.id, window.ids
        if key not in self.solved:
            self.solved[key] = super().reconstruct(window)
        return self.solved[key]


@cache
def oracle(kind=CachingReconstructor):
    return kind(room(), STAMPS.tolist(), POSES)


def window(number, indices, shared=0):
    made = [Keyframe(i, int(STAMPS[i]), BLANK, VIEW) for i in indices]
    return Window(number, tuple(made), tuple(k.id for k in made[:shared]))


def solve(feed, config=SMALL, reconstructor=None, every=3, up=None):
    """Solve windows of every third image, without tracking; `feed(slam, index, stamp)` feeds the sources."""
    slam = Slam(config, reconstructor or oracle())
    if up is not None:
        slam.height.up = up
    updates = []
    for index, stamp in enumerate(STAMPS.tolist()):
        feed(slam, index, stamp)
        last = index // every
        if index % every == 0 and last >= 4 and last % 3 == 1:
            updates.append(slam.step(window(len(updates), [every * k for k in range(last - 4, last + 1)], 2)))
    return slam, updates


def odometry(change=lambda index, step: step, world_camera=POSES):
    """Feed the true motion as an odometry in a frame of its own; `change` alters single steps."""
    odom = [pose(so3_exp(np.array([0.3, -0.2, 2.0])), np.array([3.0, -8.0, 1.0]))]
    for index in range(1, len(world_camera)):
        odom.append(odom[-1] @ change(index, inverse(world_camera[index - 1]) @ world_camera[index]))
    return lambda slam, index, stamp: slam.odometry.add(stamp, odom[index])


def meters(slam, submap=0):
    """Meters in a unit of a submap, which is 1 if it is metric."""
    stamps, poses = slam.solution.trajectory(submap)
    truth = POSES[np.searchsorted(STAMPS, stamps)]
    return umeyama(poses[:, :3, 3], truth[:, :3, 3]).scale
