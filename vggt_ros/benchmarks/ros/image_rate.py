"""benchmark rate: whether the node keeps up with a camera, directly and with its images reduced before.

As a program it reduces images: it stands in for the component image_proc::ResizeNode, with the same interpolation,
where image_proc is not installed. It is a process of its own, and written in Python, so it costs more than the
component.
"""

from __future__ import annotations

import array
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from nav_msgs.msg import Odometry
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from tqdm import tqdm

from vggt_ros.benchmarks.robustness.outcome import Outcome
from vggt_ros.benchmarks.robustness.running_node import Frames, rendered_frames, running_node
from vggt_ros.geometry.camera import resize_intrinsics
from vggt_ros.ros.conversions.messages import nanoseconds
from vggt_ros.ros.tools.node_process import running
from vggt_ros.ros.tools.recorder import NODE

_FULL = "full/"
"""Prefix of the topics before the reduction."""


def image_rate(size: tuple[int, int], rate: float, seconds: float, reduced: tuple[int, int], domain: int
               ) -> dict[str, float]:
    """Print and return the share of images with a pose, and latencies in milliseconds, raw, compressed and reduced.

    The latency is from the stamp of an image to the arrival of its odometry.
    """
    os.environ |= {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    frames, figures = _enlarged(rendered_frames(), size), dict[str, float]()
    print(f"{'images':<12}{'sent':>8}{'received':>10}{'posed':>8}{'latency ms':>12}{'p90 ms':>9}{'CPU ms':>9}")
    for name in tqdm(("raw", "compressed", "reduced"), unit="case", disable=None):
        found = _measure(frames, rate, seconds, name, reduced, domain)
        figures |= {f"{name}: {key}": value for key, value in found.items()}
        tqdm.write(f"{name:<12}{found['sent']:8.0f}{found['received']:10.0f}{found['posed']:8.2f}"
                   f"{found['latency median ms']:12.1f}{found['latency p90 ms']:9.1f}"
                   f"{found['node CPU ms an image']:9.1f}")
    return figures


def _enlarged(frames: Frames, size: tuple[int, int]) -> Frames:
    height, width = frames.images[0].shape[:2]
    return Frames(tuple(np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC))
                        for image in frames.images),
                  resize_intrinsics(frames.intrinsics, size[0] / width, size[1] / height))


def _measure(frames: Frames, rate: float, seconds: float, name: str, reduced: tuple[int, int],
             domain: int) -> dict[str, float]:
    """Return the figures of one case, after the camera is tracked."""
    command = [sys.executable, "-m", "vggt_ros.benchmarks.ros.image_rate", *map(str, reduced)]
    with tempfile.TemporaryDirectory(prefix="vggt_ros_rate_") as scratch, \
            running(command) if name == "reduced" else nullcontext(), \
            running_node(Path(scratch), domain, frames, name, {}, name == "compressed", rate,
                         _FULL if name == "reduced" else "") as node:
        if fault := node.tracking_fault():
            tqdm.write(f"{name}: {fault}")
        delays = list[float]()


        def arrived(message: Any) -> None:
            delays.append((time.time_ns() - nanoseconds(message.header.stamp)) / 1e6)

        node.recorder.create_subscription(Odometry, f"{NODE}/odom", arrived, 100)
        before, sent, used = node.status(), node.camera.sent, _cpu_seconds(node.pid)
        delays.clear()
        node.spin(seconds)
        status, sent, used = node.status(), node.camera.sent - sent, _cpu_seconds(node.pid) - used
        received, tracked = (int(status[key]) - int(before[key]) for key in ("images received", "tracked"))
        node.end(Outcome(name, 1))
    return {"sent": sent, "received": received, "posed": tracked / max(sent, 1),
            **{f"latency {quantile} ms": float(np.quantile(delays or [float("nan")], level))
               for quantile, level in (("median", 0.5), ("p90", 0.9))},
            "node CPU ms an image": 1e3 * used / max(received, 1)}


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Reducer(Node):
    """Publishes the images of the camera at another size, with their calibration."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__("reducer")
        self._size, self._info = size, CameraInfo()
        self._images = self.create_publisher(Image, "image", QoSProfile(depth=5))
        self._infos = self.create_publisher(CameraInfo, "camera_info", QoSProfile(depth=5))
        self.create_subscription(CameraInfo, f"{_FULL}camera_info", lambda info: setattr(self, "_info", info), 5)
        self.create_subscription(Image, f"{_FULL}image", self._reduce, 5)

    def _reduce(self, message: Image) -> None:
        if not self._info.width:
            return
        width, height = self._size
        pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        small = cv2.resize(pixels, self._size, interpolation=cv2.INTER_LINEAR)
        info: Any = CameraInfo(header=message.header, width=width, height=height,
                               distortion_model=self._info.distortion_model, d=self._info.d)
        matrix = resize_intrinsics(np.array(self._info.k).reshape(3, 3), width / message.width, height / message.height)
        info.k = matrix.ravel().tolist()
        self._infos.publish(info)
        self._images.publish(Image(header=message.header, height=height, width=width, encoding=message.encoding,
                                   step=3 * width, data=array.array("B", small.tobytes())))


def _main() -> None:
    rclpy.init()
    executor = SingleThreadedExecutor()
    executor.add_node(_Reducer((int(sys.argv[1]), int(sys.argv[2]))))
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        time.sleep(0.1)


if __name__ == "__main__":
    _main()
