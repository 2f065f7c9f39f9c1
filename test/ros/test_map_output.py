"""The map over real DDS: whole at most once a period and only if it changed, and what is new of it in updates."""

import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from bench import LATCHED, Bench
from rclpy.parameter import Parameter
from scenes import lap
from sensor_msgs.msg import PointCloud2

from vggt_ros.config import MapConfig
from vggt_ros.ros.tools.map_receiver import MapReceiver, read_update

PERIOD = 1.5
SETTINGS = {"tf__base_timeout": 0.0, "tf__assume_level": True, "windows__size": 5, "windows__overlap": 2,
            "tracking__features": 200,
            "map__period": PERIOD}


class Map(MapReceiver):
    """What a subscriber has of the map, and the messages."""

    def __init__(self, bench):
        super().__init__()
        self.messages = []
        self.subscription = bench.peer.create_subscription(PointCloud2, "/vggt_slam/cloud_map_updates", self.record, 10)

    def record(self, message):
        self.messages.append(message)
        self.receive(message)


@pytest.fixture(scope="module")
def bench():
    made = Bench(lap().oracle(), ["path", "status"], **SETTINGS)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture(scope="module")
def played(bench):
    """The bench after some windows, what an early subscriber of the updates has, and when whole maps came."""
    early, arrivals, whole = Map(bench), [], []
    bench.peer.create_subscription(PointCloud2, "/vggt_slam/cloud_map",
                                   lambda message: (arrivals.append(time.monotonic()), whole.append(message)), LATCHED)
    bench.info(lap().frames[0])
    versions = bench.node.slam.solution.version
    bench.play(lap().frames[:45])
    settle(bench, early)
    bench.spin(seconds=2 * PERIOD)
    early.sent = sum(message.width for message in early.messages)
    return early, arrivals, whole, bench.node.slam.solution.version - versions


def settle(bench, received):
    """Wait until the updates have all of the map."""
    def complete():
        surface = bench.node.slam.surface
        return (bench.node.worker.idle and len(received) == len(surface)
                and not received.parts.keys() - surface.keyframes)

    assert bench.spin(complete), (len(received), len(bench.node.slam.surface))


def test_the_whole_map_comes_at_most_once_a_period(bench, played):
    """However often it changes: here by a setting, about three times a second."""
    early, arrivals, whole, versions = played
    assert versions >= len(whole) >= 2
    for step in range(1, 9):
        bench.node.set_parameters([Parameter("map.min_confidence", value=0.25 + 0.05 * (step % 2))])
        bench.spin(seconds=0.3)
    assert bench.spin(bench.node.worker.call(int).done)  # all settings are applied
    settle(bench, early)
    assert bench.spin(lambda: whole[-1].width == len(bench.node.slam.surface))
    bench.spin(seconds=2 * PERIOD)
    assert len(arrivals) - 1 <= (arrivals[-1] - arrivals[0]) / PERIOD + 0.5  # one may arrive late


def test_a_map_that_does_not_change_is_not_sent_again(bench, played):
    early, _, whole, _ = played
    counts = len(whole), len(early.messages)
    bench.node.slam.solution = type(bench.node.slam.solution)(**{**vars(bench.node.slam.solution),
                                                               "version": bench.node.slam.solution.version + 1})
    bench.spin(seconds=2 * PERIOD + 0.5)
    assert (len(whole), len(early.messages)) == counts


def test_updates_add_up_to_the_whole_map(bench, played):
    """Up to half a voxel, by which keyframes may move before they are sent again."""
    early, _, whole, _ = played
    assert whole[-1].width == len(bench.node.slam.surface) == len(early) > 5000
    assert whole[-1].header.frame_id == early.messages[-1].header.frame_id == "map"
    parts = {k: bench.node.slam.surface.keyframe_cloud(k, bench.node.slam.solution) for k in early.parts}
    for keyframe, cloud in early.parts.items():
        there = parts[keyframe].transformed(bench.node.transforms.map_world)
        assert np.linalg.norm(there.points - cloud.points, axis=1).max() < 2 * MapConfig().voxel
        np.testing.assert_array_equal(there.colors, cloud.colors)
        np.testing.assert_allclose(there.confidence, cloud.confidence)


def test_updates_are_less_than_the_map_after_every_window(played):
    early, _, whole, versions = played
    sent = early.sent
    assert len(early) <= sent < 0.7 * versions * np.mean([message.width for message in whole])


def test_updates_are_small_and_name_the_keyframe_of_every_point(played):
    early, *_ = played
    for message in early.messages:
        assert message.width <= 50_000 or len(read_update(message)) == 1
        assert [field.name for field in message.fields][-1] == "keyframe"
        assert message.fields[-1].datatype == 6 and message.point_step == message.fields[-1].offset + 4  # UINT32


def test_a_late_subscriber_gets_the_whole_map_by_updates(bench, played):
    late = Map(bench)
    settle(bench, late)
    assert len(late.messages) < 20
    bench.peer.destroy_subscription(late.subscription)


def test_a_rescaled_map_and_an_empty_one_replace_the_points(bench, played):
    """By new scale all points move; after a reset every keyframe is gone, and the whole map is empty once."""
    early, _, whole, _ = played
    before = np.mean([np.linalg.norm(cloud.points, axis=1).mean() for cloud in early.parts.values()])
    bench.node.set_parameters([Parameter("scale.factor", value=3.0)])
    bench.spin(lambda: bench.node.slam.solution.metric.state == "PRIOR")
    settle(bench, early)
    bench.spin(seconds=0.6)
    after = np.mean([np.linalg.norm(cloud.points, axis=1).mean() for cloud in early.parts.values()])
    assert after > 1.4 * before
    assert bench.call("reset").success
    assert bench.spin(lambda: not early.parts and whole[-1].width == 0)
    assert not early.messages[-1].is_dense
