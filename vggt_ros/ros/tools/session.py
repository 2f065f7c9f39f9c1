"""Runs the node and the bag player as separate processes over DDS, and records the outputs of the node."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message
from tf2_ros import TransformException

from vggt_ros.ros.tf.mounting import frame_name
from vggt_ros.ros.tools.bag_player import BagError, message_class, open_bag
from vggt_ros.ros.tools.node_process import Lifecycle, NodeError, ProcessWatch, running, slam_command
from vggt_ros.ros.tools.recorder import NODE, Recorder, Recording, read_cloud
from vggt_ros.sequences.topics import info_topic_of, nearest_info


@dataclass(frozen=True)
class BagTopics:
    """The topics of a bag that the node subscribes to.

    Attributes:
        image: topic of the images, without `/compressed`.
        compressed: whether the images are sensor_msgs/CompressedImage.
        camera_info: topic of the calibration.
        frame: TF frame of the images.
        images: number of images.
        duration: duration of the bag, seconds.

    """

    image: str
    compressed: bool
    camera_info: str
    frame: str
    images: int
    duration: float


def bag_topics(bag: Path, image_topic: str) -> BagTopics:
    """Return the topics for images of `image_topic`; the CameraInfo topic is its sibling, or another one in the bag.

    Raises:
        BagError: the bag cannot be read, or has no images on this topic.

    """
    with contextlib.closing(open_bag(bag)) as reader:
        chosen = [c for c in reader.connections if c.topic == image_topic]
        first = next(reader.messages(chosen), None) if chosen else None
        if first is None:
            raise BagError(f"{bag}: no images on {image_topic}")
        message: Any = deserialize_message(bytes(first[2]), message_class(chosen[0].msgtype))
        base = image_topic.removesuffix("/compressed")
        infos = [c.topic for c in reader.connections if c.msgtype == "sensor_msgs/msg/CameraInfo" and c.msgcount]
        return BagTopics(base, chosen[0].msgtype.endswith("CompressedImage"),
                         nearest_info(image_topic, infos) or info_topic_of(image_topic), message.header.frame_id,
                         sum(c.msgcount for c in chosen), reader.duration / 1e9)


def node_command(topics: BagTopics, parameters: Path | None, settings: Mapping[str, Any]) -> list[str]:
    """Return the command of the node for the topics of a bag, with a parameter file and settings that override it."""
    settings = {"use_sim_time": True, "tf.assume_level": True,
                "camera.transport": "compressed" if topics.compressed else "raw", **settings}
    return slam_command(parameters, settings, {"image": topics.image, "image/compressed": f"{topics.image}/compressed",
                                               "camera_info": topics.camera_info})


def player_command(bag: Path, topics: BagTopics, rate: float) -> list[str]:
    """Return the command of the player, which waits for the node."""
    return [sys.executable, "-m", "vggt_ros.ros.tools.bag_player", str(bag), "--clock", "--rate", str(rate),
            "--delay", "1", "--wait-for", f"{topics.image}/compressed" if topics.compressed else topics.image]


def record_node(bag: Path, topics: BagTopics, parameters: Path, log: Path, *, rate: float = 1.0, timeout: float = 60.0,
                settings: Mapping[str, Any] | None = None, report_progress: Callable[[str], None] = print,
                on_start: Callable[[int], None] = lambda pid: None) -> Recording:
    """Start the node, play `bag`, wait until all windows are solved, and return the outputs of the node.

    Args:
        bag: the rosbag2.
        topics: topics of the bag for the node.
        parameters: parameter file of the node.
        log: file for the output of the node.
        rate: playback speed relative to the recording.
        timeout: longest wait for a window, and for the map, after the end of the bag, seconds.
        settings: parameters that override the file.
        report_progress: called with lines of progress.
        on_start: called with the id of the node's process.

    Raises:
        NodeError: the node or the player failed.

    """
    node = node_command(topics, parameters, settings or {})
    player = player_command(bag, topics, rate)
    with running(node, log) as slam, recording_node() as (recorder, executor):
        watch = ProcessWatch(executor, slam, log)
        on_start(slam.pid)
        Lifecycle(recorder, watch, NODE).change("configure", "activate")
        watch.until(lambda: recorder.status.get("state", "LOADING") != "LOADING")  # earlier images would not be used
        if recorder.status["state"] == "FAILED":
            raise NodeError(f"{recorder.status['reconstructor']}; {watch.log_tail()}")
        report_progress("the node is active; playing the bag")
        with running(player) as playing:
            watch.until(lambda: playing.poll() is not None)
        if playing.returncode:
            raise NodeError(f"bag_player ended with {playing.returncode}")
        bag_end = time.monotonic()
        report_progress("the bag has ended; waiting for the last windows")
        # A partial window is solved after windows.flush_after without a keyframe, 3 s by default.
        flush_time = time.monotonic() + 5.0
        solved = -1
        while len(recorder.window_seconds) > solved:  # while windows get solved, however slow the machine
            solved = len(recorder.window_seconds)
            if watch.until(lambda: time.monotonic() > flush_time and recorder.idle(), timeout):
                break
        else:
            report_progress(f"no window was solved within {timeout:g} s; using the results so far")
        recorder.subscribe_map()
        if not watch.until(lambda: recorder.map is not None, timeout):
            report_progress("the node published no map")
        try:
            stamps, map_camera = recorder.camera_path("base_link", frame_name(topics.frame, "base_link"))
        except TransformException as error:
            raise NodeError(f"the node mapped nothing: {error}; see its log {log}") from error
        cloud = None if recorder.map is None else read_cloud(recorder.map)
        return Recording(stamps, map_camera, recorder.odometry, cloud, recorder.status, recorder.window_seconds,
                         recorder.max_waiting, max(0.0, recorder.last_window - bag_end), recorder.map_odom_arrivals)


@contextmanager
def recording_node(domain: int | None = None) -> Iterator[tuple[Recorder, SingleThreadedExecutor]]:
    """Create a recorder with a context of its own, by default in the domain of the environment, and its executor."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    executor = SingleThreadedExecutor(context=context)
    recorder = Recorder(context)
    executor.add_node(recorder)
    try:
        yield recorder, executor
    finally:
        executor.shutdown()
        recorder.destroy_node()
        rclpy.shutdown(context=context)
