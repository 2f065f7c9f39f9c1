"""Scale drift from window to window, in a real chain of windows that are exact but for the scale of their overlaps."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from drives import POSES, SMALL, STAMPS, VIEW, odometry, oracle, solve, window
from scenes import SIZE

from vggt_ros.geometry.camera import resize_intrinsics
from vggt_ros.geometry.poses import Sim3, pose, so3_exp, umeyama
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.slam import Slam
from vggt_ros.windows.solution import OBSERVED, UNKNOWN


class DriftingScale:
    """A reconstructor with wrong depth at the keyframes shared with the window before: scale drifts at the overlap."""

    name, each, step, at = "drifting", 0.04, 0.0, 0

    def __init__(self, exact=None):
        self.exact = exact or oracle()

    def reconstruct(self, window):
        geometry = self.exact.reconstruct(window)
        if not window.shared:
            return geometry
        drift = self.each * np.random.default_rng((7, window.id)).standard_normal() + self.step * (window.id == self.at)
        depth = geometry.depth.copy()
        depth[: len(window.shared)] *= np.exp(drift)
        return replace(geometry, depth=depth)


class BreakingScale(DriftingScale):
    each, step, at = 0.0, 0.4, 7


def errors(slam):
    """RMSE of the keyframes after a rigid motion and after a similarity, meters, and the spread of local scale."""
    stamps, poses = slam.solution.trajectory(0)
    centers, truth = poses[:, :3, 3], POSES[np.searchsorted(STAMPS, stamps)][:, :3, 3]
    found = [umeyama(centers, truth, free) for free in (False, True)]
    rmse = [float(np.sqrt(np.mean(np.sum((f.apply(centers) - truth) ** 2, axis=1)))) for f in found]
    steps = [np.linalg.norm(p[6:] - p[:-6], axis=1) for p in (centers, truth)]
    return *rmse, float(np.std(np.log(steps[1] / steps[0])))


def slips(index, step):
    return pose(step[:3, :3], (2.0 if 60 <= index < 90 else 1.0) * step[:3, 3])


@cache
def depth(index):
    view = resize_intrinsics(VIEW, 104 / SIZE[0], 78 / SIZE[1])
    return oracle().scene.depth(POSES[index], view, (104, 78)).astype(np.float32)


def test_without_a_source_nothing_changes():
    """To the last bit: with sources that have no measurements, and with no sources."""
    slam, _ = solve(lambda *_: None, reconstructor=DriftingScale())
    bare = Slam(SMALL, DriftingScale())
    bare.scale.sources = ()
    for number, last in enumerate(range(4, 67, 3)):
        bare.step(window(number, [3 * k for k in range(last - 4, last + 1)], 2))
    assert slam.solution.metric.state == UNKNOWN
    for name in ("map_camera", "scale", "window_origin"):
        np.testing.assert_array_equal(getattr(slam.solution, name), getattr(bare.solution, name))


@pytest.mark.parametrize("kind", [DriftingScale, BreakingScale])
def test_scale_drift_is_corrected_by_an_odometry_that_slips_for_three_seconds(kind):
    before = errors(solve(lambda *_: None, reconstructor=kind())[0])
    slam, _ = solve(odometry(slips), reconstructor=kind())
    rigid, similar, spread = errors(slam)
    print(kind.__name__, before, (rigid, similar, spread))
    assert slam.solution.metric.state == OBSERVED
    assert rigid < 1.3 * similar or rigid < 0.03
    assert similar < 0.65 * before[1] and spread < 0.7 * before[2]


def test_scale_drift_is_corrected_by_depth_that_begins_late():
    """From the third second on, every other image has depth."""
    def feed(slam, index, stamp):
        if index >= 24 and index % 2 == 0:
            slam.depth.add(stamp, depth(index))
    before = errors(solve(lambda *_: None, reconstructor=BreakingScale())[0])
    slam, updates = solve(feed, reconstructor=BreakingScale())
    rigid, similar, spread = errors(slam)
    print(before, (rigid, similar, spread))
    assert {update.rescaled for update in updates[:4]} == {1.0}
    assert slam.solution.metric.state == OBSERVED
    assert rigid < 1.3 * similar or rigid < 0.03
    assert similar < 0.3 * before[1] and spread < 0.3 * before[2]


def test_a_graph_with_loops_takes_the_scale_of_its_windows_and_can_be_restored():
    """Overlaps with 5 % of scale error each, a loop, and the same scales given repeatedly: errors do not accumulate."""
    rng, graph, true = np.random.default_rng(0), PoseGraph(), []
    covariance = np.diag([0.005**2] * 3 + [0.02**2] * 3 + [0.012**2])
    for k in range(26):
        angle = 2 * np.pi * k / 20
        true.append(Sim3(float(np.exp(0.3 * rng.standard_normal())), so3_exp(np.array([0, -angle, 0])),
                         3 * np.array([np.sin(angle), 0, 1 - np.cos(angle)])))
    graph.add_submap(0, true[0])
    for k in range(1, 26):
        exact = true[k - 1].inverse() @ true[k]
        graph.add_node(k, k - 1, replace(exact, scale=exact.scale * np.exp(0.05 * rng.standard_normal())), covariance)
    drift = max(abs(np.log(graph.map_node[k].scale / true[k].scale)) for k in range(26))
    assert drift > 0.1
    log_scale = {k: float(np.log(expected.scale)) for k, expected in enumerate(true)}
    for _ in range(40):
        graph.set_scales(log_scale, {k: np.array([0.1, 0.0, 0.2]) for k in range(1, 26)})
    assert graph.add_loop(2, 22, true[2].inverse() @ true[22], covariance / 9).accepted
    for _ in range(40):
        graph.set_scales(log_scale, {})
    for k, expected in enumerate(true):
        assert graph.map_node[k].scale == pytest.approx(expected.scale, rel=0.01)
        np.testing.assert_allclose(graph.map_node[k].rotation, expected.rotation, atol=0.01)
        assert np.linalg.norm(graph.map_node[k].translation - expected.translation) < 0.15
    again = PoseGraph()
    again.restore(graph.map_node, graph.anchors, graph.edges)
    for k in range(26):
        np.testing.assert_allclose(again.map_node[k].translation, graph.map_node[k].translation, atol=1e-9)
    more = graph.map_node[24].inverse() @ graph.map_node[25]
    for one in (graph, again):
        one.add_node(26, 25, more, covariance)
    np.testing.assert_allclose(again.map_node[26].translation, graph.map_node[26].translation, atol=1e-9)
