"""A window that contradicts the one before it places the keyframes of that anew, with their depth and unit."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from rendered_drives import SIZE, VIEW, Drive

from vggt_ros.config import Config
from vggt_ros.geometry.poses import so3_exp
from vggt_ros.synthetic import OracleNoise, corridor, drive
from vggt_ros.windows.keyframe import Keyframe, Window

COUNT, WRONG = 18, range(8, 13)
"""Keyframes of windows 0 to 7, 5 to 12 and 10 to 17, and those that the second one has wrong."""
LOST = 0.3
"""Standard deviation of the log scale of the third window against the first."""


@cache
def straight():
    return Drive(corridor(), drive(COUNT, length=5.0), (np.full((*SIZE[::-1], 3), 128, np.uint8),) * COUNT)


class Contradicting:
    """An exact reconstructor, whose second window bends, and whose third one says so if it is `revised`."""

    def __init__(self, revised):
        self._exact, self._revised, self.earlier = straight().oracle(noise=OracleNoise(scale=0)), revised, ()

    def __getattr__(self, name):
        return getattr(self._exact, name)

    def reconstruct(self, window):
        if window.id == 2 and self._revised:
            self.earlier = window.earlier
            window = Window(2, tuple(Keyframe(k, k * 10**8, np.zeros((*SIZE[::-1], 3), np.uint8), VIEW)
                                     for k in range(7, COUNT)))
            found = self._exact.reconstruct(window)
            return replace(found, report={"continued": 1.0, "revised": float(len(WRONG)), "scale_sigma": LOST})
        found = self._exact.reconstruct(window)
        if window.id == 1:
            for row, keyframe in enumerate(found.keyframe_ids):
                if keyframe in WRONG:
                    bend = keyframe - WRONG[0] + 1
                    found.window_camera[row, :3, :3] @= so3_exp(np.array([0.01 * bend, 0.0, 0.0]))
                    found.window_camera[row, :3, 3] *= 1 + 0.03 * bend
                    found.depth[row] *= 0.98**bend
        return replace(found, report={"continued": float(window.id > 0)})


@cache
def run(revised):
    oracle = Contradicting(revised)
    slam, updates = straight().run(oracle, Config().replace({"loops.enabled": False}))
    assert not any(update.refused for update in updates) and len(slam.solution) == COUNT
    return slam, oracle


def test_keyframes_that_a_window_had_wrong_are_placed_anew():
    """Exact after that, where the mean of a wrong and a right solution is off by decimeters."""
    plain, revised = run(False)[0], run(True)[0]
    print("largest errors, m:", straight().error(plain), straight().error(revised))
    assert straight().error(plain) > 0.05 and straight().error(revised) < 1e-3
    before, after = plain.solution, revised.solution
    for keyframe in range(COUNT):
        row = after.index(keyframe)
        exact = straight().oracle(noise=OracleNoise(scale=0)).reconstruct(Window(0, (
            Keyframe(keyframe, keyframe * 10**8, np.zeros((*SIZE[::-1], 3), np.uint8), VIEW),))).depth[0]
        stored = after.keyframes[keyframe].depth.astype(np.float64) * after.scale[row] / after.scale[0]
        known = np.isfinite(exact) & np.isfinite(stored)
        assert np.median(np.abs(stored[known] / exact[known] - 1)) < 2e-3
        same = before.keyframes[keyframe].features
        assert np.array_equal(after.keyframes[keyframe].features, same)


def test_they_are_found_among_those_before():
    oracle = run(True)[1]
    assert set(range(7, COUNT)) <= set(oracle.earlier)


def test_the_scale_may_be_lost_after_the_last_keyframe_that_was_right():
    """There a loop has to correct it, neither before nor after."""
    edges = {edge.second: edge for edge in run(True)[0]._atlas.graph._graph.overlap_edges(range(1, COUNT))}
    sigma = [float(np.sqrt(edges[node].covariance[6, 6])) for node in range(1, COUNT)]
    assert sigma[7] == pytest.approx(LOST, rel=0.05)
    assert max(sigma[:7] + sigma[8:]) < 0.03


def test_a_keyframe_that_is_attached_elsewhere_is_not_placed_anew():
    slam = run(False)[0]
    graph = slam._atlas.graph
    assert graph.is_chain([7, 8, 9]) and graph.is_chain([7])
    assert not graph.is_chain([6, 8])
