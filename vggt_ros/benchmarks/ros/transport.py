"""Losses and latency of images between two processes over DDS: best effort or reliable, with and without our profile.

The publisher offers reliable delivery, as most camera drivers do, at a fixed rate. A subscriber in another process
takes the images with a queue of 5 and does nothing else.
"""

from __future__ import annotations

import array
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from ament_index_python import PackageNotFoundError, get_package_share_directory
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from tqdm import tqdm

from vggt_ros.ros.conversions.messages import header, nanoseconds

SIZES = {"VGA": (640, 480), "1080p": (1920, 1080)}
_PROFILE_VARIABLES = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
_TOPIC = "benchmark_images"
_TIMEOUT = 20.0


def transport(images: int = 90, rate: float = 30.0, domain: int = 93) -> dict[str, float]:
    """Print and return how many of `images` arrive, and their latency in milliseconds, for each combination."""
    profile = _profile()
    figures: dict[str, float] = {}
    print(f"{'profile':<14}{'size':<8}{'subscriber':<14}{'received':>12}{'median ms':>12}{'p99 ms':>10}")
    cases = [(with_profile, size, reliability) for with_profile in (False, True) for size in SIZES
             for reliability in ("best_effort", "reliable")]
    for with_profile, size, reliability in tqdm(cases, unit="case", disable=None):
        seconds = _measure(profile if with_profile else None, size, reliability, images, rate, domain)
        name = f"{'config/fastdds.xml' if with_profile else 'stock'} {size} {reliability}"
        median, p99 = (1e3 * float(np.quantile(seconds, q)) if seconds else float("nan") for q in (0.5, 0.99))
        figures |= {f"{name} received": len(seconds), f"{name} median ms": median, f"{name} p99 ms": p99}
        tqdm.write(f"{'fastdds.xml' if with_profile else 'stock':<14}{size:<8}{reliability:<14}"
                   f"{f'{len(seconds)} of {images}':>12}{median:12.1f}{p99:10.1f}")
    return figures


def _profile() -> Path:
    """Return config/fastdds.xml of the installed package, else of the checkout."""
    try:
        share = Path(get_package_share_directory("vggt_ros"))
    except PackageNotFoundError:
        share = Path(__file__).parents[3]
    return share / "config" / "fastdds.xml"


def _measure(profile: Path | None, size: str, reliability: str, images: int, rate: float, domain: int) -> list[float]:
    """Return the latencies in seconds of the images that arrived."""
    environment = {name: value for name, value in os.environ.items() if name not in _PROFILE_VARIABLES}
    environment |= {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    if profile is not None:
        environment |= {name: str(profile) for name in _PROFILE_VARIABLES}
    command = [sys.executable, "-m", "vggt_ros.benchmarks.ros.transport"]
    subscriber = subprocess.Popen([*command, "subscribe", reliability, str(images), str(rate)], env=environment,
                                  stdout=subprocess.PIPE, text=True)
    try:
        subprocess.run([*command, "publish", size, str(images), str(rate)], env=environment, check=True,
                       timeout=_TIMEOUT + 2 * images / rate)
        answer, _ = subscriber.communicate(timeout=_TIMEOUT)
    finally:
        subscriber.kill()
    seconds: list[float] = json.loads(answer)
    return seconds


def _publish(size: str, images: int, rate: float) -> None:
    """Publish images at a rate, once there is a subscriber."""
    node = Node("benchmark_camera")
    publisher = node.create_publisher(Image, _TOPIC, QoSProfile(depth=10))
    deadline = time.monotonic() + _TIMEOUT
    while not publisher.get_subscription_count():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the subscriber was not found over DDS within {_TIMEOUT:g} s")
        time.sleep(0.05)
    time.sleep(0.5)
    width, height = SIZES[size]
    pixels = array.array("B", bytes(3 * width * height))
    begin = time.monotonic()
    for index in range(images):
        time.sleep(max(0.0, begin + index / rate - time.monotonic()))
        message = Image(height=height, width=width, encoding="rgb8", step=3 * width, data=pixels)
        message.header = header(time.time_ns(), "camera")
        publisher.publish(message)
    time.sleep(2.0)


def _subscribe(reliability: str, images: int, rate: float) -> None:
    """Print the latencies of the images until none has arrived for a while."""
    node, seconds = Node("benchmark_listener"), list[float]()
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def record(message: Image) -> None:
        seconds.append((time.time_ns() - nanoseconds(message.header.stamp)) / 1e9)

    node.create_subscription(Image, _TOPIC, record,
                             QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()]))
    deadline = time.monotonic() + _TIMEOUT
    while len(seconds) < images and time.monotonic() < deadline:
        known = len(seconds)
        executor.spin_once(timeout_sec=0.5)
        if len(seconds) > known:
            deadline = time.monotonic() + 3.0 + 2 / rate
    print(json.dumps(seconds))


if __name__ == "__main__":
    rclpy.init()
    if sys.argv[1] == "publish":
        _publish(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    else:
        _subscribe(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    rclpy.try_shutdown()
