"""bag_player as a separate process, with its messages received over DDS."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import TransformStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from recordings import write_split_bag
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage

from vggt_ros.ros.tools.bag_player import BagError, main, message_class, open_bag

START = 1_700_000_000_123_456_789
PERIOD = 50_000_000
COUNT = 30
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


def image(index):
    message = Image(height=4, width=5, encoding="rgb8", step=15, data=bytes(range(60)))
    message.header.frame_id = "camera"
    stamp = START + index * PERIOD
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    message.data[0] = index
    return message


@pytest.fixture(scope="module", params=["sqlite3", "mcap"])
def bag(request, tmp_path_factory):
    """A bag with images of 20 Hz on /a/image, and a topic of a type that is not installed."""
    path = tmp_path_factory.mktemp("bags") / request.param
    store = get_typestore(Stores.ROS2_JAZZY)
    plugin = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}[request.param]
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        known = writer.add_connection("/a/image", "sensor_msgs/msg/Image", typestore=store)
        foreign = writer.add_connection("/a/foreign", "nowhere_msgs/msg/Thing", msgdef="int32 x", rihs01="RIHS01_0")
        for index in range(COUNT):
            writer.write(known, START + index * PERIOD, serialize_message(image(index)))
            writer.write(foreign, START + index * PERIOD, b"\0\1\0\0\0\0\0\0")
    return path


def player(*arguments):
    return subprocess.Popen([sys.executable, "-m", "vggt_ros.ros.tools.bag_player", *map(str, arguments)],
                            cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


@pytest.fixture
def listener():
    """A node that records (wall time, image) and clock stamps; `node.run(process)` spins until the process ends."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("listener", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    node.images, node.ticks = [], []
    node.create_subscription(Image, "/a/image", lambda m: node.images.append((time.monotonic(), m)), RELIABLE)
    node.create_subscription(Clock, "/clock", lambda m: node.ticks.append(m.clock.sec * 10**9 + m.clock.nanosec),
                             RELIABLE)

    def run(process, until=lambda: False, timeout=60):
        end = time.monotonic() + timeout
        while process.poll() is None and not until() and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.02)
        for _ in range(20):
            executor.spin_once(timeout_sec=0.01)

    node.run = run
    yield node
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_every_byte_arrives_in_order_and_in_time(bag, listener, tmp_path):
    """Messages are exact, at twice the rate they take half the time, and /clock is published between messages."""
    process = player(bag, "--rate", 2, "--clock", "--wait-for", "/a/image")
    listener.run(process)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert [serialize_message(message) for _, message in listener.images] == \
        [serialize_message(image(index)) for index in range(COUNT)]
    took = listener.images[-1][0] - listener.images[0][0]
    assert 0.5 * (COUNT - 1) * PERIOD / 2e9 < took < 10 * (COUNT - 1) * PERIOD / 2e9
    ticks = np.array(listener.ticks)
    assert (np.diff(ticks) >= 0).all() and len(ticks) >= COUNT
    assert ticks[0] > START - PERIOD and ticks[-1] == START + (COUNT - 1) * PERIOD
    assert "/a/foreign: skipped, nowhere_msgs/msg/Thing is not installed" in err
    assert f"played {COUNT} messages" in out


def test_clock_is_published_at_forty_hertz_or_more(bag, listener, tmp_path):
    """At a fifth of the rate the images are 0.25 s apart; the clock must advance between them."""
    process = player(bag, "--rate", 0.2, "--clock", "--wait-for", "/a/image")
    listener.run(process, until=lambda: len(listener.images) >= 4)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0, "SIGINT must end it cleanly"
    steps = np.diff(listener.ticks)  # a busy machine delays some; between images are 50 ms
    assert np.percentile(steps, 10) <= 0.2 * 25_000_000 and np.median(steps) <= 0.2 * 100_000_000


def test_a_topic_that_is_not_in_the_bag_is_not_waited_for(bag, tmp_path):
    """It ends at once with the topics that there are: a launch that waited for it would hang."""
    process = player(bag, "--wait-for", "/b/image", "--wait-ready", "/vggt_slam/status")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "no topic /b/image; the images in the bag are /a/image" in err


def test_a_status_that_nobody_sends_is_named_and_a_topic_of_the_bag_is_none(bag):
    in_home = f"~/{os.path.relpath(bag, Path.home())}"  # as bag:=~/bag of launch
    process = player(in_home, "--wait-ready", "/a/image")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "/a/image is a topic of the bag, not the status of a node" in err
    process = player(bag, "--wait-ready", "/typo/status")
    assert any("waiting for /typo/status: 0 nodes publish it" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_loop_starts_again(bag, listener, tmp_path):
    """With --loop the stamps jump back to the first; SIGINT ends it, also if repeated (as under launch)."""
    process = player(bag, "--rate", 10, "--loop", "--wait-for", "/a/image")
    listener.run(process, until=lambda: len(listener.images) > COUNT + 3)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err
    assert listener.images[COUNT][1].header.stamp == listener.images[0][1].header.stamp


def test_the_player_waits_for_a_loading_node_and_reports_a_failed_one(bag, listener, tmp_path):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    status = listener.create_publisher(DiagnosticStatus, "/vggt_slam/status", latched)

    def publish_state(state):
        status.publish(DiagnosticStatus(message="no weights", values=[KeyValue(key="state", value=state)]))

    publish_state("LOADING")
    process = player(bag, "--rate", 20, "--wait-for", "/a/image", "--wait-ready", "/vggt_slam/status")
    listener.run(process, until=lambda: listener.images, timeout=4)
    assert not listener.images and process.poll() is None
    publish_state("NO_IMAGE")
    listener.run(process)
    assert process.wait(60) == 0 and len(listener.images) == COUNT
    publish_state("FAILED")
    process = player(bag, "--wait-ready", "/vggt_slam/status")
    listener.run(process)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "no weights" in err and "Traceback" not in err


def test_the_bag_of_a_simulator(listener, tmp_path):
    """It has a /clock of its own, and /tf_static without its QoS: one time, and late subscribers are served."""
    store, stamps = get_typestore(Stores.ROS2_JAZZY), [7 * 10**9 + index * 10**8 for index in range(20)]
    with Writer(tmp_path / "bag", version=9) as writer:
        topics = {topic: writer.add_connection(topic, kind, typestore=store) for topic, kind in (
            ("/clock", "rosgraph_msgs/msg/Clock"), ("/tf_static", "tf2_msgs/msg/TFMessage"),
            ("/a/image", "sensor_msgs/msg/Image"))}
        static = TFMessage(transforms=[TransformStamped(child_frame_id="camera")])
        writer.write(topics["/tf_static"], START, serialize_message(static))
        for index, stamp in enumerate(stamps):  # the log's times are those of the wall
            time_ = Time(sec=stamp // 10**9, nanosec=stamp % 10**9)
            writer.write(topics["/clock"], START + index * 10**8, serialize_message(Clock(clock=time_)))
            writer.write(topics["/a/image"], START + index * 10**8, serialize_message(image(0)))
    process = player(tmp_path / "bag", "--rate", 0.5, "--clock", "--wait-for", "/a/image", "/clock")
    listener.run(process, until=lambda: len(listener.images) > 5)
    late = []
    listener.create_subscription(TFMessage, "/tf_static", late.append,
                                 QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    listener.run(process)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert listener.ticks == stamps
    assert [message.transforms[0].child_frame_id for message in late] == ["camera"]
    assert "the only source of time" in err


@pytest.mark.parametrize(("make", "expected"), [
    (lambda folder: folder / "missing", "no such file or folder"),
    (lambda folder: ros1(folder), "a bag of ROS 1"),
    (lambda folder: folder, "there is no metadata.yaml in it"),
    (lambda folder: damaged(folder), "not a readable rosbag2"),
    (lambda folder: cut_off(folder), "drive_0.mcap alone, .*drive_1.mcap: File end magic is invalid"),
])
def test_the_error_names_a_bad_bag(make, expected, tmp_path):
    path = make(tmp_path)
    with pytest.raises(BagError, match=expected) as caught:
        open_bag(path)
    assert str(path) in str(caught.value)


def ros1(folder):
    bag = folder / "old.bag"
    bag.write_bytes(b"#ROSBAG V2.0\n")
    return bag


def cut_off(folder):
    *_, last = write_split_bag(folder / "split", parts=2)
    last.write_bytes(last.read_bytes()[:-100])
    (folder / "split" / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    return folder / "split"


def damaged(folder):
    bag = folder / "bag"
    bag.mkdir()
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    return bag


def test_errors_end_the_command(bag, tmp_path):
    """The command prints the error in one line, without a traceback, and fails."""
    for arguments, expected in (((tmp_path / "missing",), "no such file or folder"),
                                ((bag, "--wait-ready", "a b"), "'a b' is no name of a topic"),
                                ((bag, "--topics", "/b"), "no topic /b; the bag has /a/foreign, /a/image"),
                                ((bag, "--topics", "/a/foreign"), "no message that can be played")):
        process = player(*arguments)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1 and expected in err and "Traceback" not in err


def test_a_truncated_file_is_an_error(bag, tmp_path):
    """The error names a truncated bag, after its first part was played."""
    broken = tmp_path / "truncated"
    shutil.copytree(bag, broken)
    for file in [*broken.glob("*.mcap"), *broken.glob("*.db3")]:
        file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
    process = player(broken, "--rate", 100)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and str(broken) in err and "Traceback" not in err


def test_types_are_found_by_name():
    assert message_class("sensor_msgs/msg/Image") is Image
    assert message_class("nowhere_msgs/msg/Thing") is None
    assert message_class("sensor_msgs/msg/Nothing") is None


@pytest.mark.parametrize(("option", "text"), [("--rate", "fast"), ("--rate", "0"), ("--delay", "nan"),
                                             ("--delay", "inf"), ("--delay", "-5")])
def test_a_rate_or_a_time_that_is_no_number_is_named(capsys, option, text):
    with pytest.raises(SystemExit):
        main(["bag", option, text])
    assert f"argument {option}: '{text}' is not a positive number" in capsys.readouterr().err
