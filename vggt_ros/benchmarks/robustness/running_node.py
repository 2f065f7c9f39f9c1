"""The node in a process, a camera before it, and what its status says: the bench of the parts of the benchmark."""

from __future__ import annotations

import array
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger

from vggt_ros.benchmarks.robustness.outcome import Outcome
from vggt_ros.process_info import children, resident_bytes
from vggt_ros.ros.conversions import messages
from vggt_ros.ros.tools.node_process import Lifecycle, NodeError, ProcessWatch, running, slam_command
from vggt_ros.ros.tools.recorder import NODE, Recorder
from vggt_ros.ros.tools.session import recording_node
from vggt_ros.synthetic import laps, pinhole, room

FRAME = "camera_optical_frame"
SIZE = (320, 240)
SETTINGS: dict[str, Any] = {
    "reconstructor": "multiview", "windows.size": 4, "windows.overlap": 2, "windows.flush_after": 1.0,
    "tracking.features": 200, "multiview.corners": 300, "tf.base_timeout": 0.0, "tf.assume_level": True}
"""Settings with which one CPU core solves a window in less than a second."""
_READY_TIMEOUT, _TRACKING_TIMEOUT = 120.0, 60.0
"""Longest wait until the reconstructor is loaded, and until good images are tracked, seconds."""
_TRACKED = 20
"""Images in a row that must be tracked to count as tracking."""
END_LIMIT = 5.0
"""Longest time from SIGINT to the end, seconds; launch escalates after that."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Rendered images, RGB (height, width, 3), and their intrinsics 3x3."""

    images: tuple[NDArray[np.uint8], ...]
    intrinsics: NDArray[np.float64]


def rendered_frames(count: int = 40, lap: float = 0.22) -> Frames:
    """Render a part of a lap in a room."""
    scene, intrinsics = room(), pinhole(*SIZE)
    return Frames(tuple(scene.render(pose, intrinsics, SIZE)[0] for pose in laps(count, laps=lap)), intrinsics)


class Camera:
    """Publishes images forward and backward for ever, each with its calibration, while `on` is set.

    Attributes:
        topic, kind: topic and type of the images.
        sent: number of messages on that topic.

    """

    def __init__(self, node: Recorder, frames: Frames, compressed: bool, rate: float, prefix: str = "") -> None:
        """Publish at `rate` images a second, on topics that begin with `prefix`."""
        self.topic = prefix + ("image/compressed" if compressed else "image")
        self.kind = CompressedImage if compressed else Image
        self._images = node.create_publisher(self.kind, self.topic, QoSProfile(depth=10))
        self._infos = node.create_publisher(CameraInfo, f"{prefix}camera_info", QoSProfile(depth=10))
        self._frames, self._encoded = frames, [_encode(image, compressed) for image in frames.images]
        self.sent, self.on, self._turn = 0, False, 0
        self._compressed = compressed
        node.create_timer(1.0 / rate, self._tick)

    @property
    def is_connected(self) -> bool:
        """Whether the node subscribes to images and calibration."""
        return bool(self._images.get_subscription_count() and self._infos.get_subscription_count())

    def publish(self, message: Any) -> None:
        """Publish a message, or its bytes, on the topic of the images."""
        self._images.publish(message)
        self.sent += 1

    def _tick(self) -> None:
        if self.on:
            self.send_one()

    def send_one(self) -> None:
        """Publish the next image with its calibration."""
        last = len(self._encoded) - 1
        data = self._encoded[last - abs(self._turn % (2 * last) - last)]
        self._turn += 1
        header = messages.header(time.time_ns(), FRAME)
        height, width = self._frames.images[0].shape[:2]
        self._infos.publish(messages.camera_info(self._frames.intrinsics, (width, height), header))
        self.publish(CompressedImage(header=header, format="jpeg", data=data) if self._compressed else
                     Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width, data=data))


def _encode(image: NDArray[np.uint8], compressed: bool) -> array.array[int]:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1] if compressed else image
    return array.array("B", data.tobytes())


class RunningNode:
    """The node, its camera and its status.

    Attributes:
        recorder: the node of this process, which has the publishers.
        camera: the camera.
        lifecycle: requests transitions.
        log: file of the output of the node.

    """

    def __init__(self, process: Any, recorder: Recorder, executor: SingleThreadedExecutor, log: Path, frames: Frames,
                 compressed: bool, rate: float, prefix: str = "") -> None:
        """Watch `process`; see `running_node`."""
        self._process, self.recorder, self._executor, self.log = process, recorder, executor, log
        self._watch = ProcessWatch(executor, process, log)
        self.lifecycle = Lifecycle(recorder, self._watch, NODE)
        self.camera = Camera(recorder, frames, compressed, rate, prefix)
        self._sent_before = 0
        self._save = recorder.create_client(Trigger, f"{NODE}/save_map")

    @property
    def pid(self) -> int:
        """The process of the node."""
        return int(self._process.pid)

    @property
    def child(self) -> int | None:
        """The process of the reconstructor, the only child of the node; None if there is none."""
        return next(iter(children(self.pid)), None)

    def signal_child(self, number: int) -> int:
        """Send a signal to the reconstructor and return its process; raises NodeError if there is none."""
        if (pid := self.child) is None:
            raise NodeError(f"the reconstructor has no process: {self.recorder.status.get('reconstructor')}")
        os.kill(pid, number)
        return pid

    def resident_mb(self) -> float:
        """Return the resident memory of node and reconstructor, MB."""
        return sum(resident_bytes(pid) for pid in (self.pid, *children(self.pid))) / 1e6

    def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Spin until `condition` holds; False after `timeout` seconds; raises NodeError if the node has ended."""
        return self._watch.until(condition, timeout)

    def spin(self, seconds: float) -> None:
        """Spin for a time; raises NodeError if the node has ended."""
        self._watch.until(lambda: False, seconds)

    def spin_once(self) -> None:
        """Let the camera publish and messages arrive, without waiting."""
        self._executor.spin_once(timeout_sec=0.0)

    def status(self) -> dict[str, str]:
        """Return a status that is newer than this call."""
        before = self.recorder.reports
        if not self.until(lambda: self.recorder.reports > before + 1, 30.0):
            raise NodeError(f"{NODE} sends no status any more; {self._watch.log_tail()}")
        return self.recorder.status

    def start(self) -> None:
        """Configure and activate the node, and wait until images can be tracked."""
        self.lifecycle.change("configure", "activate")
        if not self.until(lambda: self.camera.is_connected and self.recorder.status.get("state", "LOADING") not in
                          ("LOADING", "FAILED"), _READY_TIMEOUT):
            raise NodeError(f"the reconstructor is not loaded: {self.recorder.status.get('reconstructor')}")
        while not int((status := self.status())["images received"]):  # until DDS has found the camera for the node, too
            self.camera.send_one()
        self._sent_before = self.camera.sent - int(status["images received"]) - int(status["images missed"])

    @property
    def sent(self) -> int:
        """The number of images that were sent since the node could receive them."""
        return self.camera.sent - self._sent_before

    def tracking_fault(self, timeout: float = _TRACKING_TIMEOUT) -> str:
        """Turn the camera on and return why its images are not tracked within a time; empty if they are.

        The time begins when the reconstructor is loaded.
        """
        self.camera.on = True
        self.until(lambda: self.recorder.status.get("state", "LOADING") != "LOADING", _READY_TIMEOUT)
        status, end = self.status(), time.monotonic() + timeout
        while time.monotonic() < end:
            before, status = status, self.status()
            while int(status["frames"]) - int(before["frames"]) < _TRACKED and time.monotonic() < end:
                status = self.status()
            seen, tracked = (int(status[key]) - int(before[key]) for key in ("frames", "tracked"))
            if seen >= _TRACKED and tracked == seen:
                return ""
        return f"good images are not tracked within {timeout:g} s: {status['state']}, {status.get('calibration')}, " \
            f"{status['images received']} received, {status['images refused']} refused, {status['frames']} frames"

    def settle(self, timeout: float = 240.0) -> dict[str, str]:
        """Turn the camera off, wait until nothing is waiting, and return the status."""
        self.camera.on = False
        self.spin(2.5)
        self.until(self.recorder.idle, timeout)
        return self.status()

    def save_map(self) -> Any:
        """Request that the map is saved; return the future of the answer."""
        return self._save.call_async(Trigger.Request())

    def log_lines(self) -> int:
        """Return the number of lines of the log so far."""
        return self.log.read_bytes().count(b"\n")

    def end(self, outcome: Outcome, name: str = "seconds to end") -> None:
        """Interrupt the node; a fault if it ends late, with another status than 0, or its log has a traceback."""
        processes, began = children(self.pid), time.monotonic()
        os.kill(self.pid, signal.SIGINT)
        while self._process.poll() is None and time.monotonic() - began < 3 * END_LIMIT:
            self._executor.spin_once(timeout_sec=0.02)
        seconds = time.monotonic() - began
        outcome.figures[name] = round(seconds, 2)
        outcome.require(seconds <= END_LIMIT, f"the node ends {seconds:.1f} s after SIGINT")
        outcome.require(self._process.poll() in (0, 1), f"the node ended with {self._process.poll()}")
        while any(Path("/proc", str(pid)).exists() for pid in processes) and time.monotonic() - began < 30:
            time.sleep(0.1)
        outcome.require(not [pid for pid in processes if Path("/proc", str(pid)).exists()],
                        "the reconstructor outlives the node")


def account(status: Mapping[str, str], outcome: Outcome, sent: int | None = None) -> None:
    """Note as faults images and keyframes that are neither used nor counted as lost; `sent` is the number of images."""
    count = {key: int(value) for key, value in status.items() if value.isdigit()}
    received, fates = count["images received"], [count[f"images {fate}"] for fate in
                                                 ("early", "waiting", "refused", "late")]
    frames = count["frames"]
    outcome.require(received == sum(fates) + frames + count.get("errors in image", 0), f"{received} images were "
                    f"received, but {sum(fates)} are counted as not used and {frames} as frames")
    if sent is not None:
        missed = count["images missed"]
        outcome.require(sent == received + missed,
                        f"{sent} images were sent, but {received} are counted as received and {missed} as missed")
    kept = [count[key] for key in ("thinned", "unplaced", "keyframes placed", "released")]
    unknown = count["keyframes"] - sum(kept)
    outcome.figures |= {"keyframes": count["keyframes"], "keyframes not accounted for": unknown}
    is_idle = status["worker"] == "idle" and status["windows waiting"] == "0"
    outcome.require(is_idle, f"{status['windows waiting']} windows still wait: the machine is too slow, or one hangs")
    if not count["windows lost"] and is_idle:
        outcome.require(not unknown, f"{unknown} keyframes are neither in the map nor counted as left out or removed")


@contextmanager
def running_node(folder: Path, domain: int, frames: Frames, name: str, settings: Mapping[str, Any] | None = None,
                 compressed: bool = False, rate: float = 10.0, prefix: str = "") -> Iterator[RunningNode]:
    """Start the node, configured and active; it is killed at the end if it has not ended.

    Args:
        folder: for its log and its maps.
        domain: the ROS domain, of which nobody else is a member.
        frames: what the camera sees.
        name: of the log.
        settings: besides `SETTINGS`.
        compressed: whether the images are compressed.
        rate: images a second.
        prefix: of the topics of the camera, where another node is between it and the node.

    """
    chosen = {**SETTINGS, "map.folder": str(folder / "maps"),
              "camera.transport": "compressed" if compressed else "raw", **(settings or {})}
    log = folder / f"{name}.log"
    with running(slam_command(None, chosen, {}), log) as process, recording_node(domain) as (recorder, executor):
        node = RunningNode(process, recorder, executor, log, frames, compressed, rate, prefix)
        node.start()
        yield node


