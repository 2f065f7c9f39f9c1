"""Frames on a robot: what is sent to TF with and without the mounting of the camera, while it moves, and in silence."""

import array
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from bench import CAMERA, Bench, matrix, stamp
from scenes import lap, run
from sensor_msgs.msg import Image
from tf2_ros import StaticTransformBroadcaster, TransformBroadcaster

from vggt_ros.config import Config
from vggt_ros.geometry.poses import BODY_OPTICAL, inverse, pose, rotation_angle, so3_exp
from vggt_ros.ros.conversions import messages
from vggt_ros.ros.tf import mounting
from vggt_ros.ros.tf import watch as tf_watch
from vggt_ros.ros.tf.optical_frame import OpticalFrameCheck
from vggt_ros.synthetic import SceneReconstructor, room

SMALL = {"windows__size": 5, "windows__overlap": 2, "tracking__features": 200}
SHORT = 25
BEGIN = 1_700_000_000_123_456_789
"""Stamp of the first image, unless a test needs the present time."""


class LapReconstructor(SceneReconstructor):
    """Returns ground truth for the images of the lap, whatever stamps they were published with."""

    def take(self, stamp, index):
        self._poses[stamp] = lap().world_camera[index]


def nothing(index, stamp):
    pass


def play(bench, begin, end, stamp=lambda index: BEGIN + 100_000_000 * index, before=nothing, after=nothing):
    """Publish images of the lap with stamps of the test's own; `before` and `after` are called around each."""
    for index in range(begin, end):
        assert bench.spin(lambda: bench.node.worker.idle)
        when = stamp(index)
        bench.oracle.take(when, index)
        before(index, when)
        bench.image(replace(lap().frames[index], stamp=when))
        after(index, when)
    bench.settle()


@pytest.fixture
def make(capfd):
    benches = []

    def make_bench(**parameters):
        oracle = LapReconstructor(scene(), [], [])
        bench = Bench(oracle, ["status", "odom", "pose", "path", "cloud_map"],
                      **{**SMALL, **parameters})
        bench.read_log = lambda: capfd.readouterr().err
        benches.append(bench)
        bench.oracle = oracle
        bench.start()
        bench.info(lap().frames[0])
        return bench

    yield make_bench
    for bench in benches:
        bench.close()


@cache
def scene():
    return room()


def posed(bench):
    return [message for message in bench.got["odom"] if message.pose.covariance[0] < 1e5]


def links(bench):
    """Return the pairs of parent and child on /tf and /tf_static."""
    return {(t.header.frame_id, t.child_frame_id) for topic in ("/tf", "/tf_static") for message in bench.got[topic]
            for t in message.transforms}


def test_without_a_transform_nothing_is_invented_and_it_is_taken_when_it_comes(make):
    bench = make(tf__base_timeout=0.0)
    play(bench, 0, SHORT)
    assert links(bench) == {("map", "odom")} and not bench.got["/tf_static"]
    assert {m.child_frame_id for m in posed(bench)} == {CAMERA} and len(posed(bench)) > 5
    for message in bench.got["pose"]:  # the map has body axes, z up if the camera is level
        index = round((stamp(message) - BEGIN) / 1e8)
        true = BODY_OPTICAL @ inverse(lap().world_camera[0]) @ lap().world_camera[index]
        assert np.degrees(rotation_angle(true[:3, :3].T @ matrix(message.pose.pose)[:3, :3])) < 1.0
    status = bench.got["status"][-1]
    assert "tf.assume_level" in status.message and f"no transform base_link <- {CAMERA}" in status.message
    base_camera = pose(so3_exp(np.array([0.0, 0.3, 0.1])), np.array([0.2, 0.0, 0.4])) @ BODY_OPTICAL
    caster = StaticTransformBroadcaster(bench.peer)
    caster.sendTransform(messages.transform(base_camera, 0, "base_link", CAMERA))
    bench.spin(seconds=0.3)
    before = len(bench.got["odom"])
    play(bench, SHORT, SHORT + 10)
    assert ("odom", "base_link") in links(bench)
    assert {m.child_frame_id for m in bench.got["odom"][before + 1:]} == {"base_link"}
    np.testing.assert_allclose(bench.node.transforms.map_world, base_camera, atol=1e-9)
    assert bench.logged("TF has base_link <- ", "poses are those of base_link from now on")
    assert "no transform" not in bench.node.transforms.mounting.problem
    assert bench.spin(lambda: "no transform" not in bench.status_message())
    np.testing.assert_allclose(matrix(bench.got["path"][-1].poses[0].pose), np.eye(4), atol=1e-9)


def test_a_camera_without_a_robot_is_its_own_base(make):
    """With tf.base_frame set to the frame of the camera, TF has the whole chain to the camera."""
    bench = make(tf__base_frame=CAMERA)
    play(bench, 0, SHORT)
    assert links(bench) == {("map", "odom"), ("odom", CAMERA)}
    assert not bench.node.transforms.mounting.problem
    np.testing.assert_allclose(bench.node.transforms.map_world, BODY_OPTICAL)


@pytest.mark.parametrize("delay", [0.0, 0.12])
def test_a_moving_mounting_is_looked_up_at_the_stamp_of_each_image(make, delay, monkeypatch):
    """A camera on a pan head, whose joint is published between the images, and later than the image itself."""
    monkeypatch.setattr(mounting, "_MAX_WAIT", 5.0)  # a busy machine delays TF, too
    bench = make()
    caster = TransformBroadcaster(bench.peer)

    def base_camera(seconds):
        """Only rotations, since the unit of the map is not the meter."""
        return pose(so3_exp(np.array([0.0, 0.0, 0.8 * np.sin(2.0 * seconds)])), np.zeros(3)) @ BODY_OPTICAL

    def publish(until):
        nonlocal sent
        while sent <= until:
            caster.sendTransform(messages.transform(base_camera(sent), BEGIN + round(sent * 1e9), "base_link", CAMERA))
            sent += 0.03
        bench.spin(seconds=0.02)

    sent, count = -0.06, 40
    play(bench, 0, count, before=lambda index, _: publish(0.1 * index + 0.03 - delay),
         after=lambda index, _: publish(0.1 * index + 0.03))
    assert bench.node.transforms.mounting.is_moving and bench.node.transforms.mounting.late == 0
    stamps = [BEGIN + 100_000_000 * index for index in range(count)]
    assert [stamp(m) for m in bench.got["odom"]] == stamps
    truth = {when: lap().world_camera[row] @ inverse(base_camera(0.1 * row)) for row, when in enumerate(stamps)}
    begin = base_camera(0.0) @ inverse(lap().world_camera[0])
    assert len(bench.got["pose"]) > 15
    for found in [*bench.got["pose"], *bench.got["path"][-1].poses]:
        base = matrix(found.pose.pose if hasattr(found.pose, "pose") else found.pose)
        true = begin @ truth[stamp(found)]
        assert np.degrees(rotation_angle(true[:3, :3].T @ base[:3, :3])) < 1.0
    stamps, chain = bench.transforms("odom", "base_link")
    assert len(stamps) == len(posed(bench))
    by_stamp = {stamp(m): matrix(m.pose.pose) for m in bench.got["pose"]}
    np.testing.assert_allclose(bench.transforms("map", "odom")[1][-1] @ chain[-1], by_stamp[stamps[-1]], atol=1e-9)


def test_a_moving_mounting_that_stops_to_be_published_is_counted(make):
    bench = make(tf__base_timeout=5.0)
    caster = TransformBroadcaster(bench.peer)
    for offset in (-1, 1):
        caster.sendTransform(messages.transform(BODY_OPTICAL, BEGIN + offset * 50_000_000, "base_link", CAMERA))
    bench.spin(seconds=0.2)
    for frame in lap().frames[:3]:
        bench.image(frame)
    assert bench.spin(lambda: len(bench.got["odom"]) == 3)
    assert bench.node.transforms.mounting.late == 2
    assert bench.logged(f"TF has no base_link <- {CAMERA} at the stamp", "the newest one is used")
    assert bench.status_now()["transforms late"] == "2"


def sent_after(bench, began, child):
    """Return when map -> child was received after a time of the monotonic clock, and its stamps."""
    times = [(when, messages.nanoseconds(t.header.stamp)) for when, message in bench.received for t in
             message.transforms if (t.header.frame_id, t.child_frame_id) == ("map", child) and when > began]
    return np.array([when for when, _ in times]), np.array([when for _, when in times])


def record_times(bench):
    """Record when the messages of /tf are received."""
    from tf2_msgs.msg import TFMessage

    bench.received = []
    bench.peer.create_subscription(TFMessage, "/tf", lambda m: bench.received.append((time.monotonic(), m)), 100)


@pytest.mark.parametrize("mode", ["map_odom_base", "map_to_odom"])
def test_map_to_odom_goes_on_in_silence(make, mode):
    """The images end, with stamps of almost 10 s ago; the transform goes on with the present time."""
    bench = make(tf__mode=mode, tf__base_timeout=0.0, tf__assume_level=True)
    record_times(bench)
    robot = TransformBroadcaster(bench.peer)

    def publish(index, when):
        if mode == "map_to_odom":
            robot.sendTransform(messages.transform(np.eye(4), when, "odom", "base_link"))
            bench.spin(seconds=0.02)

    play(bench, 0, SHORT, lambda index: time.time_ns() - 9_800_000_000, publish)
    began = time.monotonic()
    for child in ("odom",) if mode == "map_odom_base" else ("odom", "odom_visual"):
        goes_on = bench.spin(lambda child=child: len(sent_after(bench, began + 1.0, child)[0]) > 10)
        assert goes_on, f"map -> {child} has ended"
        _, stamps = sent_after(bench, began + 1.0, child)
        assert stamps[-1] > time.time_ns() - 5_000_000_000  # those of the images are twice as old
    assert not bench.node.transforms.clock_mismatch


def problems(bench):
    """Return the problems that the status names, as text."""
    return "\n".join(bench.node.monitor.problems())


def listen_again(bench):
    """Let the node listen to TF at once, and not only after half a minute."""
    watch = bench.node.transforms.watch
    assert bench.spin(lambda: not watch._subscriptions)
    watch._began = -100.0
    assert bench.spin(lambda: watch._subscriptions)
    bench.spin(seconds=0.3)  # until the peer has found the new subscriptions


def test_what_others_send_to_tf_is_named(make, monkeypatch):
    """A bag with an old localization, a base below base_footprint, and a camera that two nodes place."""
    monkeypatch.setattr(tf_watch, "_LISTEN", 0.7)
    bench = make()
    static, moving = StaticTransformBroadcaster(bench.peer), TransformBroadcaster(bench.peer)
    static.sendTransform([messages.transform(BODY_OPTICAL, 0, "base_link", CAMERA),
                          messages.transform(np.eye(4), 0, "base_footprint", "base_link")])

    def publish(index, when):
        moving.sendTransform([messages.transform(np.eye(4), when + 77, "map", "odom"),
                              messages.transform(BODY_OPTICAL, when, "mast", CAMERA)])

    bench.spin(seconds=0.3)
    play(bench, 0, SHORT, before=publish)
    listen_again(bench)  # now that the node sends, too
    play(bench, SHORT, SHORT + 8, before=publish)
    assert bench.spin(lambda: "map -> odom is also sent by another node (one of: /peer)" in problems(bench), 5.0)
    assert "base_link has two parents in TF, odom by this node and base_footprint (one of: /peer): set tf.base_frame " \
        "to base_footprint, the root of the robot" in problems(bench)
    assert f"{CAMERA}, the frame of the images, has the parents base_link and mast in TF" in problems(bench)
    assert bench.spin(lambda: "also sent by another node" in bench.status_message())
    assert bench.logged("WARN", "map -> odom is also sent by another node")
    assert not bench.node.transforms.watch._subscriptions, "it does not listen all the time"


@pytest.mark.parametrize("parents", [
    {"base_link": ["a"], "a": ["b"], "b": ["a"]}, {"base_link": ["a"], "a": ["base_link"]},
    {"base_link": ["a"], "a": ["a"]}, {"base_link": ["a"], "a": ["b"], "b": ["c"], "c": ["b", "base_link"]}])
def test_a_cycle_in_tf_is_no_endless_loop(make, parents):
    """Known fault: the search for the root of the robot hung the node for ever."""
    watch = make().node.transforms.watch
    watch._parents = {child: dict.fromkeys(names, False) for child, names in parents.items()}
    assert any("base_link has two parents" in problem and "set tf.base_frame to" in problem
               for problem in watch._find())


def test_our_own_transforms_are_not_taken_for_those_of_others(make, monkeypatch):
    monkeypatch.setattr(tf_watch, "_LISTEN", 0.7)
    bench = make(tf__base_timeout=0.0, tf__assume_level=True)
    play(bench, 0, SHORT, lambda index: time.time_ns())
    listen_again(bench)
    play(bench, SHORT, SHORT + 8, lambda index: time.time_ns())
    assert bench.spin(lambda: not bench.node.transforms.watch._subscriptions)
    assert not bench.node.transforms.watch.problems


def test_two_cameras_on_one_topic_and_a_frame_that_is_not_optical_are_named(make):
    bench = make()
    other = bench.peer.create_publisher(Image, "image", 10)
    bench.image(lap().frames[0], header=messages.header(lap().frames[0].stamp, "camera_link"))
    assert "2 publishers of /image: /peer, /peer; images of two cameras make no map" in problems(bench)
    assert "camera_link, the frame_id of the images, is, by its name, not an optical frame (REP-103" in problems(bench)
    assert bench.spin(lambda: "not an optical frame" in bench.status_message())
    assert bench.logged("WARN", "2 publishers of /image") and other is not None


def test_a_driver_without_stamps_and_a_topic_of_depth_are_named(make):
    bench = make()
    gray = np.tile(np.arange(1, 321, dtype=np.uint16), (240, 1))
    image = {"encoding": "16UC1", "step": 640, "width": 320, "height": 240, "data": array.array("B", gray.tobytes())}
    bench.node.source.topic = "/camera/depth/image_raw"
    for _ in range(22):
        bench.image(lap().frames[0], header=messages.header(5, CAMERA), **image)
    said = problems(bench)
    assert "21 images in a row are left out, the last one has the stamp of the one before: the driver" in said
    assert "/camera/depth/image_raw has depth (16UC1): remap `image` to color images" in said
    bench.node.source.topic = "/camera/infra1/image_raw"
    bench.image(lap().frames[0], header=messages.header(10**9, CAMERA), **image)
    assert "in a row" not in problems(bench) and "depth" not in problems(bench)


def test_a_frame_that_gravity_or_the_ground_contradict_is_named():
    """A level camera; its frame is optical, or that of its body, in which TF has no rotation."""
    solution = run(lap(), Config().replace({"windows.size": 5, "windows.overlap": 2}), lap().oracle()).slam.solution
    tilted = pose(so3_exp(np.array([0.0, 0.2, 0.3])), np.zeros(3))
    for base_camera, is_optical in ((BODY_OPTICAL, True), (tilted @ BODY_OPTICAL, True), (np.eye(4), False),
                                    (tilted, False)):
        by_ground, by_gravity = OpticalFrameCheck(), OpticalFrameCheck()
        by_ground.check_name("camera")
        by_ground.check_ground(solution, base_camera)
        assert ("by the ground" in by_ground.problem) is not is_optical
        up = BODY_OPTICAL[:3, :3].T @ np.array([0.0, 0.0, 1.0])  # of the images, whatever their frame is
        by_gravity.check_gravity(base_camera, up)
        assert ("by gravity" in by_gravity.problem) is not is_optical


def test_map_to_odom_is_not_delayed_by_images(make):
    bench = make(tf__base_timeout=0.0, tf__assume_level=True)
    play(bench, 0, SHORT, lambda index: time.time_ns())
    sent = []
    send = bench.node.transforms._broadcaster.sendTransform
    bench.node.transforms._broadcaster.sendTransform = lambda t: sent.append(time.monotonic()) or send(t)
    locate = bench.node.slam.locate
    bench.node.slam.locate = lambda frame, search: time.sleep(2.0) or locate(frame, search)
    began = time.monotonic()
    bench.image(replace(lap().frames[SHORT], stamp=time.time_ns()))
    gaps = np.diff([when for when in sent if when > began])
    assert len(gaps) > 15 and gaps.max() < 1.5
