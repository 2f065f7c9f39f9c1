"""Metric scale as a state: when it is accepted, how the map and the odometry are rescaled, and by which source."""

from itertools import pairwise

import numpy as np
import pytest
from drives import SMALL, STAMPS, meters, odometry, oracle, solve, window
from scenes import lap, trajectory_error

from vggt_ros.geometry.poses import Sim3, pose, rotation_angle, so3_exp
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.slam import Slam
from vggt_ros.synthetic import SceneReconstructor
from vggt_ros.windows.solution import OBSERVED, PRIOR, UNKNOWN


def drive(feed, config=SMALL):
    """Run a lap through tracker and mapper."""
    slam = Slam(config, lap().oracle())
    tracked, updates = [], []
    for index, frame in enumerate(lap().frames):
        feed(slam, index, frame.stamp)
        tracked.append(slam.track(frame))
        if tracked[-1].window is not None:
            updates.append(slam.step(tracked[-1].window))
    return slam, tracked, updates


def slips(index, step):
    """For three seconds of the twenty the odometry measures twice the speed."""
    return pose(step[:3, :3], (2.0 if 85 <= index < 115 else 1.0) * step[:3, 3])


@pytest.fixture(scope="module", name="observed")
def _observed():
    return drive(odometry(world_camera=lap().world_camera))


def test_without_a_source_scale_is_unknown():
    slam, updates = solve(lambda *_: None)
    assert slam.solution.metric.state == UNKNOWN and slam.solution.metric.sigma == 1.0
    assert {update.rescaled for update in updates} == {1.0}
    assert abs(np.log(meters(slam))) > 0.1, "the test would not see a wrong unit"


def test_an_odometry_makes_the_map_metric_once(observed):
    slam, _, updates = observed
    metric = slam.solution.metric
    assert metric.state == OBSERVED and metric.sigma < 0.015 and metric.source == "odometry"
    assert trajectory_error(*slam.solution.trajectory(0), lap())[1].scale == pytest.approx(1.0, abs=0.01)
    assert sum(update.rescaled != 1.0 for update in updates) == 1
    assert "m per map unit" in slam.scale.report["odometry"]


def test_the_whole_map_is_rescaled(observed):
    """Keyframes, their depth, and what is mapped after the rescaling: exact in meters."""
    slam, _, _ = observed
    solution = slam.solution
    error, _ = trajectory_error(solution.stamps, solution.map_camera, lap())
    assert error < 0.01
    truth = lap().truth(solution.stamps)
    oracle = lap().oracle()
    for row in (0, len(solution) - 1):
        keyframe = solution.keyframes[int(solution.ids[row])]
        depth = oracle.scene.depth(truth[row], keyframe.intrinsics, keyframe.depth.shape[::-1])
        ratio = np.nanmedian(depth / (keyframe.depth.astype(np.float32) * solution.scale[row]))
        assert ratio == pytest.approx(1.0, abs=0.01)
    spread = np.linalg.norm(slam.map_cloud().points.max(0) - slam.map_cloud().points.min(0))
    assert 5.0 < spread < 9.0  # of a room whose diagonal is 6.9 m


def test_odometry_keeps_its_pose_and_moves_in_meters_from_then_on(observed):
    """No step of odom -> camera is longer than what was moved, in the old unit or in meters; map -> odom jumps."""
    _, tracked, updates = observed
    truth = {frame.stamp: matrix for frame, matrix in zip(lap().frames, lap().world_camera, strict=True)}
    located = [one for one in tracked if one.odom_camera is not None]
    factor = next(update.rescaled for update in updates if update.rescaled != 1.0)
    ratios, jumps = [], []
    for before, after in pairwise(located):
        true = np.linalg.norm(truth[after.stamp][:3, 3] - truth[before.stamp][:3, 3])
        if true > 0.02:
            ratios.append(np.linalg.norm(after.odom_camera[:3, 3] - before.odom_camera[:3, 3]) / true)
        jumps.append(np.linalg.norm(after.map_odom[:3, 3] - before.map_odom[:3, 3]))
        turned = rotation_angle(before.odom_camera[:3, :3].T @ after.odom_camera[:3, :3])
        really = rotation_angle(truth[before.stamp][:3, :3].T @ truth[after.stamp][:3, :3])
        assert abs(turned - really) < np.radians(1.0)
        np.testing.assert_allclose(after.map_odom @ after.odom_camera, after.map_camera, atol=1e-9)
    assert np.median(ratios[-8:]) == pytest.approx(1.0, abs=0.05)
    assert np.median(ratios[:8]) == pytest.approx(1 / factor, rel=0.05)
    assert max(ratios) < 1.3 * max(1.0, 1 / factor)
    assert max(jumps) > 0.1


def test_an_odometry_that_slips_for_three_seconds_does_not_matter():
    slam, _ = solve(odometry(slips))
    assert slam.solution.metric.state == OBSERVED
    assert meters(slam) == pytest.approx(1.0, abs=0.015)


def test_a_map_whose_sources_contradict_themselves_does_not_stay_observed():
    """From the middle on the odometry's scale changes every two seconds: no scale fits, and sigma grows."""
    factors = 0.4, 1.8, 0.7, 3.0, 0.25, 1.3

    def drifts(index, step):
        return pose(step[:3, :3], step[:3, 3] * (1.0 if index < 80 else factors[(index - 80) // 20]))
    slam, updates = solve(odometry(drifts))
    assert any(update.rescaled != 1.0 for update in updates), "it was accepted at first"
    assert slam.solution.metric.state == PRIOR and slam.solution.metric.source == "sources that no longer agree"
    assert slam.solution.metric.sigma > 0.03


@pytest.mark.parametrize("fault", [lambda _, step: np.eye(4), lambda i, step: pose(step[:3, :3], step[:3, 3] + 5.0)])
def test_an_odometry_that_stands_still_or_jumps_from_the_beginning_is_not_accepted(fault):
    """Three seconds of outliers first: no scale before there is more evidence against them than for them."""
    def at_first(index, step):
        return fault(index, step) if index < 30 else step
    slam, updates = solve(odometry(at_first))
    for update in updates:
        assert 0.3 < update.rescaled < 3.0
    assert slam.solution.metric.state in (UNKNOWN, OBSERVED)
    if slam.solution.metric.state == OBSERVED:
        assert meters(slam) == pytest.approx(1.0, abs=0.02)


def test_odometry_that_is_not_finite_is_ignored():
    def broken(slam, index, stamp):
        good(slam, index, stamp)
        slam.odometry.add(stamp + 1, np.full((4, 4), np.nan))
    good = odometry()
    assert solve(broken)[0].solution.metric.state == OBSERVED


def test_a_factor_is_a_prior_and_may_change_while_it_runs():
    slam, _ = solve(lambda *_: None)
    off = meters(slam)
    slam.configure(SMALL.replace({"scale.factor": off}))
    assert slam.solution.metric.state == PRIOR
    assert meters(slam) == pytest.approx(1.0, abs=0.005)
    again, _ = solve(lambda *_: None, SMALL.replace({"scale.factor": off}))
    assert again.solution.metric.state == PRIOR and meters(again) == pytest.approx(1.0, abs=0.01)


def test_a_factor_does_not_touch_a_scale_that_is_observed(observed):
    slam, _, _ = observed
    before = slam.solution.version
    slam.configure(SMALL.replace({"scale.factor": 3.0}))
    assert slam.solution.version == before
    slam.configure(SMALL)


def test_the_scale_of_a_new_submap_has_to_be_measured_anew():
    """The submap after a break inherits the median depth, which is uncertain; only that submap is rescaled then."""
    class Nearsighted(SceneReconstructor):
        def reconstruct(self, window):
            if np.diff(window.ids).max() > 4:
                raise ReconstructionRefused("no matches")
            return super().reconstruct(window)

    slam, feed, states = Slam(SMALL, oracle(Nearsighted)), odometry(), []
    for index, stamp in enumerate(STAMPS.tolist()):
        feed(slam, index, stamp)
    for number, first in enumerate([*range(0, 110, 9), *range(130, 150, 9)]):
        slam.step(window(number, range(first, first + 15, 3)))
        states.append((slam.counts.submaps, slam.solution.metric.state))
    assert (1, OBSERVED) in states and (2, PRIOR) in states and (2, OBSERVED) not in states
    assert meters(slam) == pytest.approx(1.0, abs=0.01)
    assert 0.3 < slam.solution.metric.sigma < 0.6


def test_the_tracker_survives_a_rescaling_while_it_has_no_pose():
    """The camera is covered while the map is rescaled: odometry continues where it was, not where the map moved."""
    sequence = lap()
    slam = Slam(SMALL, sequence.oracle())
    feed, last = odometry(world_camera=sequence.world_camera), None
    for index, frame in enumerate(sequence.frames):
        feed(slam, index, frame.stamp)
        tracked = slam.track(frame)
        if last is not None and tracked.odom_camera is not None:
            step = np.linalg.norm(tracked.odom_camera[:3, 3] - last[:3, 3])
            assert step < 0.5
        last = tracked.odom_camera if tracked.odom_camera is not None else last
        if tracked.window is not None:
            slam.step(tracked.window)
            slam._localizer._tracker._last_pose = None


def test_a_graph_of_two_submaps_rescales_the_one_that_is_meant():
    from vggt_ros.pose_graph.graph import PoseGraph

    graph = PoseGraph()
    covariance = np.diag([1e-4] * 3 + [1e-3] * 3 + [1e-4])
    step = Sim3(1.2, so3_exp(np.array([0, 0.1, 0])), np.array([0.5, 0, 1.0]))
    graph.add_submap(0, Sim3.identity())
    graph.add_node(1, 0, step, covariance)
    graph.add_submap(2, Sim3(2.0, so3_exp(np.array([0, 1.0, 0])), np.array([4.0, 0, 0])))
    graph.add_node(3, 2, step, covariance)
    graph.add_node(4, 3, step, covariance)
    before = dict(graph.map_node)
    graph.rescale(3, 1.7)
    for number in (0, 1):
        np.testing.assert_allclose(graph.map_node[number].translation, before[number].translation, atol=1e-9)
    center = before[2].translation
    for number in (2, 3, 4):
        place = graph.map_node[number]
        np.testing.assert_allclose(place.translation, center + 1.7 * (before[number].translation - center), atol=1e-6)
        assert place.scale == pytest.approx(1.7 * before[number].scale, rel=1e-6)
    graph.add_node(5, 4, step, covariance)  # a later node fits
    expected = graph.map_node[4] @ step
    np.testing.assert_allclose(graph.map_node[5].translation, expected.translation, atol=1e-6)
