"""Runs the node and the bag player as separate processes over DDS, and records the outputs of the node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message
from tf2_ros import TransformException

from vggt_ros.ros.bag_player import BagError, message_class, open_bag
from vggt_ros.ros.mounting import frame_name
from vggt_ros.ros.recorder import NODE, Recorder, Recording, read_cloud
from vggt_ros.sequences.topics import info_topic_of, nearest_info

_REQUESTS = 4
"""How often a transition is asked for in a minute: DDS loses a request that comes before the node has found the
client."""
_GOALS = {"CONFIGURE": "inactive", "ACTIVATE": "active"}


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


class NodeError(Exception):
    """The node does not start, does not respond, or ends early; the text gives the reason and the end of its log."""


def node_command(topics: BagTopics, parameters: Path, settings: Mapping[str, Any]) -> list[str]:
    """Return the command of the node for the topics of a bag, with a parameter file and settings that override it."""
    settings = {"use_sim_time": True, "tf.assume_level": True,
                "camera.transport": "compressed" if topics.compressed else "raw", **settings}
    remaps = {"image": topics.image, "image/compressed": f"{topics.image}/compressed",
              "camera_info": topics.camera_info}
    command = [sys.executable, "-m", "vggt_ros.ros.slam_node", "--ros-args", "--params-file", str(parameters)]
    for name, value in settings.items():
        command += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    for name, topic in remaps.items():
        command += ["-r", f"{name}:={topic}"]
    return command


def player_command(bag: Path, topics: BagTopics, rate: float) -> list[str]:
    """Return the command of the player, which waits for the node."""
    return [sys.executable, "-m", "vggt_ros.ros.bag_player", str(bag), "--clock", "--rate", str(rate), "--delay", "1",
            "--wait-for", f"{topics.image}/compressed" if topics.compressed else topics.image]


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
    with process(node, log) as slam, recording_node() as (recorder, executor):
        watch = ProcessWatch(executor, slam, log)
        on_start(slam.pid)
        for name in ("CONFIGURE", "ACTIVATE"):
            change_state(recorder, watch, name)
        watch.until(lambda: recorder.status.get("state", "LOADING") != "LOADING")  # earlier images would not be used
        if recorder.status["state"] == "FAILED":
            raise NodeError(f"{recorder.status['reconstructor']}; {watch.log_tail()}")
        report_progress("the node is active; playing the bag")
        with process(player) as playing:
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
def recording_node() -> Iterator[tuple[Recorder, SingleThreadedExecutor]]:
    """Run a recorder, whose executor the caller spins."""
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    recorder = Recorder(context)
    executor.add_node(recorder)
    try:
        yield recorder, executor
    finally:
        executor.shutdown()
        recorder.destroy_node()
        rclpy.shutdown(context=context)


class ProcessWatch:
    """Spins until a condition holds, and raises an error if the node process has ended."""

    def __init__(self, executor: SingleThreadedExecutor, process: subprocess.Popen[bytes], log: Path) -> None:
        """Watch a process that writes to `log`."""
        self._executor, self._process, self._log = executor, process, log

    def log_tail(self) -> str:
        """Return the last lines of the log of the node, for an error message."""
        return f"its log {self._log} ends with\n" + "\n".join(self._log.read_text().splitlines()[-15:])

    def until(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Return True when `condition` holds, False after `timeout` seconds; raises NodeError if the node has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        while not condition():
            if self._process.poll() is not None:
                raise NodeError(f"vggt_slam ended with {self._process.returncode}; {self.log_tail()}")
            if end is not None and time.monotonic() > end:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True


def change_state(node: Recorder, watch: ProcessWatch, name: str) -> None:
    """Ask the node for a transition, as soon as it has its services, and wait until it is done; raises NodeError."""
    client = node.create_client(ChangeState, f"{NODE}/change_state")
    request = ChangeState.Request()
    request.transition.id = getattr(Transition, f"TRANSITION_{name}")
    if not watch.until(client.service_is_ready, 60.0):
        raise NodeError(f"{NODE} has no lifecycle services after 60 s")
    answers = []
    for _ in range(_REQUESTS):
        answers.append(client.call_async(request))
        if watch.until(lambda: any(answer.done() for answer in answers), 60.0 / _REQUESTS):
            break
    given = [answer.result() for answer in answers if answer.done()]
    # An answer may be lost as well; the node then refuses what it has done already.
    if not any(answer.success for answer in given) and not (len(answers) > 1 and given and _is_in(
            node, watch, _GOALS[name])):
        raise NodeError(f"{NODE} {'refused' if given else 'did not answer the request'} to {name.lower()}; "
                        f"{watch.log_tail()}")


def _is_in(node: Recorder, watch: ProcessWatch, state: str) -> bool:
    """Return whether the node says that it is in a lifecycle state."""
    client = node.create_client(GetState, f"{NODE}/get_state")
    if not watch.until(client.service_is_ready, 60.0):
        return False
    answer = client.call_async(GetState.Request())
    return watch.until(answer.done, 60.0) and answer.result().current_state.label == state


@contextmanager
def process(command: list[str], log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command with its output in `log`; at the end it is interrupted by SIGINT, and killed after 15 s."""
    output = log.open("wb") if log is not None else None
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT if output else None,
                               env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if output is not None:
            output.close()
