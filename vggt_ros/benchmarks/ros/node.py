"""Cost of the node itself: all that it does with an image, except for tracking and reconstruction."""

from __future__ import annotations

import array
import time
from typing import Any

import cv2
import numpy as np
import rclpy
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.geometry.camera import Camera
from vggt_ros.ros.conversions import messages
from vggt_ros.ros.node.slam_node import SlamNode
from vggt_ros.windows.frame import Frame, TrackedFrame
from vggt_ros.windows.keyframe import Window
from vggt_ros.windows.load import Load
from vggt_ros.windows.point_cloud import PointCloud

DISTORTION = [-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05, 0.0]


class _Idle:
    """A reconstructor that is never called."""

    name = "none"

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the camera's own size."""
        return camera.width, camera.height

    def reconstruct(self, window: Window) -> Any:
        """Never called: no frame becomes a keyframe here."""
        raise NotImplementedError


def node_cost(images: int = 200, size: tuple[int, int] = (640, 480), domain: int = 94) -> dict[str, float]:
    """Print and return the node's CPU time for an image, in milliseconds, raw and compressed, and for a cloud.

    Images of a distorted camera go over DDS into the node, whose tracker is replaced by a constant answer; odometry,
    pose and TF go out. The executor thread's CPU time counts, so that other load on the machine does not.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        figures = {}
        for transport in ("raw", "compressed"):
            for name, value in _image_cost(images, size, domain, transport).items():
                figures[f"{transport} {name}"] = value
        figures["cloud 200k points ms"] = cloud_cost(200_000)
        print("\n".join(f"{figure:<45}{value:8.2f}" for figure, value in figures.items()))
        return figures
    finally:
        cv2.setNumThreads(threads)


def cloud_cost(points: int, repetitions: int = 20) -> float:
    """Return the median time to pack a cloud of so many points, milliseconds."""
    rng = np.random.default_rng(0)
    cloud = PointCloud(rng.normal(size=(points, 3)).astype(np.float32), rng.integers(0, 256, (points, 3), np.uint8),
                       rng.random(points, np.float32), rng.normal(size=(points, 3)).astype(np.float32))
    seconds = []
    for _ in range(repetitions):
        began = time.thread_time()
        messages.point_cloud(cloud, messages.header(0, "map"))
        seconds.append(time.thread_time() - began)
    return 1e3 * float(np.median(seconds))


def _image_cost(images: int, size: tuple[int, int], domain: int, transport: str) -> dict[str, float]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    overrides = [Parameter("camera.transport", value=transport), Parameter("tf.base_timeout", value=0.0),
                 Parameter("tf.assume_level", value=True)]
    node = SlamNode(reconstructor_factory=lambda config, progress: (_Idle(), "none, for a benchmark"), context=context,
                    parameter_overrides=overrides)
    peer = Node("benchmark_peer", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    kind, topic = (Image, "image") if transport == "raw" else (CompressedImage, "image/compressed")
    publisher = peer.create_publisher(kind, topic, QoSProfile(depth=5))
    infos = peer.create_publisher(CameraInfo, "camera_info", QoSProfile(depth=5))
    peer.create_subscription(Odometry, "/vggt_slam/odom", lambda message: None, 5)
    node.trigger_configure()
    node.slam.locate = _constant  # type: ignore[method-assign]
    node.slam.select_keyframe = _constant  # type: ignore[method-assign, assignment]
    node.trigger_activate()
    node.worker.call(lambda: None).result()  # wait until it is loaded
    try:
        deadline = time.monotonic() + 20
        while not (publisher.get_subscription_count() and infos.get_subscription_count()):
            executor.spin_once(timeout_sec=0.1)
            if time.monotonic() > deadline:
                raise RuntimeError("the node's subscriptions were not found over DDS within 20 s")
        info = messages.camera_info(Camera.assumed(*size, 70.0).intrinsics, size, messages.header(0, "camera"))
        info.d = DISTORTION
        infos.publish(info)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)
        costs = [_one(node, executor, publisher, _message(kind, index, size)) for index in range(1, images + 1)]
        decode, publish = np.median(node.source.seconds), np.median(node.monitor.publish_seconds)
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
        peer.destroy_node()
        rclpy.shutdown(context=context)
    usual = np.array(costs[len(costs) // 4:])  # without the first ones, which build the rectifier
    return {"ms an image": 1e3 * float(np.median(usual)), "p90 ms": 1e3 * float(np.percentile(usual, 90)),
            "of it decoding and rectifying ms": 1e3 * float(decode), "of it publishing ms": 1e3 * float(publish)}


def _one(node: SlamNode, executor: SingleThreadedExecutor, publisher: Any, message: Any) -> float:
    """Return the executor thread's CPU seconds from the wake-up to the end of an image's callback."""
    before = node.source.counts["received"]
    publisher.publish(message)
    began = time.thread_time()
    deadline = time.monotonic() + 5
    while node.source.counts["received"] == before:
        began = time.thread_time()
        executor.spin_once(timeout_sec=0.2)
        if time.monotonic() > deadline:
            raise RuntimeError("an image did not arrive within 5 s")
    return time.thread_time() - began


def _message(kind: type, index: int, size: tuple[int, int]) -> Any:
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    gray = 128 + 60 * np.sin((columns + index) / 7) + 60 * np.sin(rows / 11)
    pixels = np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
    head = messages.header(1_700_000_000_000_000_000 + 33_000_000 * index, "camera")
    if kind is CompressedImage:
        data = cv2.imencode(".jpg", pixels)[1].tobytes()
        return CompressedImage(header=head, format="jpeg", data=array.array("B", data))
    return Image(header=head, height=size[1], width=size[0], encoding="bgr8", step=3 * size[0],
                 data=array.array("B", pixels.tobytes()))


def _constant(frame: Frame | Load | None = None, search: bool = True) -> TrackedFrame:
    pose, stamp = np.eye(4), frame.stamp if isinstance(frame, Frame) else 0
    return TrackedFrame(stamp, "TRACKING", pose, pose, np.eye(4), 1e-4 * np.eye(6), 1e-4 * np.eye(6), 0, pose, 100)


if __name__ == "__main__":
    node_cost()
