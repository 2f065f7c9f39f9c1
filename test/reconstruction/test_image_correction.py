"""Refinement of windows whose images have a rolling shutter, rendered row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from window_shape import shape_error

torch = pytest.importorskip("torch", reason="torch is not installed")

from vggt_ros.benchmarks.accuracy.network_errors import ErringReconstructor, NetworkErrors
from vggt_ros.geometry.poses import Array, pose, so3_exp
from vggt_ros.reconstruction.multiview.sfm.turn_rates import image_motion_of_turning
from vggt_ros.reconstruction.refined import RefinedReconstructor
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.synthetic import orbit, pinhole, room
from vggt_ros.windows.keyframe import Corners, Keyframe, Window

SIZE, STRIPS, READOUT = (518, 392), 8, 0.03
MATRIX = pinhole(*SIZE)
POSES = orbit(60)[::3][:8]


def keyframe(number: int, world_camera: Array, rate: Array, readout: float) -> Keyframe:
    """Return a keyframe whose camera turns at a `rate` (3,), radians per second, while strips of rows are read out."""
    scene, rows, strips = room(), SIZE[1] // STRIPS, []
    for strip in range(STRIPS):
        delay = ((strip + 0.5) / STRIPS - 0.5) * readout
        moved = MATRIX.copy()
        moved[1, 2] -= strip * rows
        strips.append(scene.render(world_camera @ pose(so3_exp(rate * delay), np.zeros(3)), moved, (SIZE[0], rows))[0])
    pixels = np.random.default_rng(0).uniform((0, 0), SIZE, (300, 2)).astype(np.float32)
    ratio = (pixels - MATRIX[:2, 2]) / MATRIX[0, 0]
    velocity = image_motion_of_turning(ratio, np.diag(MATRIX)[:2]) @ rate
    return Keyframe(number, 10**8 * (number + 1), np.concatenate(strips), MATRIX,
                    corners=Corners(np.arange(300), pixels, velocity.astype(np.float32)))


@pytest.mark.parametrize("readout", [READOUT, 0.0])
def test_the_readout_time_is_found_and_its_shift_removed(readout: float) -> None:
    """The camera is shaken: rows move by up to 8 pixels; without the image motion, nothing is known of it."""
    rates = np.random.default_rng(1).uniform(-0.8, 0.8, (len(POSES), 3))
    keyframes = tuple(keyframe(i, *both, readout) for i, both in enumerate(zip(POSES, rates, strict=True)))
    depth = {k.stamp: room().depth(world, MATRIX, SIZE) for k, world in zip(keyframes, POSES, strict=True)}
    inner = ErringReconstructor({k.stamp: world for k, world in zip(keyframes, POSES, strict=True)}, depth, MATRIX,
                                NetworkErrors(), 0, VggtConfig())
    errors = []
    for known in (True, False):
        window = Window(0, keyframes if known else tuple(replace(k, corners=None) for k in keyframes), ())
        found = RefinedReconstructor(inner).reconstruct(window)
        assert found.report["refined"] == 1
        assert found.report["readout_s"] == pytest.approx(readout if known else 0, abs=0.003)
        errors.append(shape_error(found.window_camera, POSES)[:2])
    (position, rotation), (position_before, rotation_before) = errors
    if readout:
        assert position < 0.3 * position_before, errors
        assert rotation < 0.3 * rotation_before, errors
    else:
        assert errors[0] == errors[1]
