"""A flood of hostile messages on every input of the node, with good images between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from tqdm import tqdm

from vggt_ros.benchmarks.robustness.hostile import TOPICS, HostileMessages
from vggt_ros.benchmarks.robustness.outcome import Outcome
from vggt_ros.benchmarks.robustness.running_node import Frames, RunningNode, account, running_node
from vggt_ros.ros.tools.recorder import NODE

_RATE = 500.0
"""Hostile messages a second."""
_CHANGE_PUBLISHERS, _SET_PARAMETERS = 500, 50
"""A publisher of another QoS comes or goes, and parameters are set, once in so many messages."""
_MAX_LOG_RATE, _LOG_SECONDS = 10.0, 10.0
"""Most lines of the log a second, over at least so many seconds: the first message of each kind is always logged."""
_SETTINGS = {"scale.depth": True, "scale.imu": True, "scale.odometry": "topic"}


def hostile_messages(folder: Path, domain: int, frames: Frames, count: int,
                     transports: tuple[str, ...] = ("raw", "compressed")) -> Outcome:
    """Send `count` messages, by default half of them to a node with raw images and half to one with compressed ones."""
    outcome = Outcome("hostile messages", count)
    for name in transports:
        compressed = name == "compressed"
        with running_node(folder, domain, frames, f"hostile_{name}", _SETTINGS, compressed) as node:
            fault = node.tracking_fault()
            outcome.require(not fault, f"{name}, before: {fault}")
            _flood(node, frames, count // len(transports), name, outcome)
            fault = node.tracking_fault()
            outcome.require(not fault, f"{name}, afterwards: {fault}")
            # With several publishers of a topic, the sequence numbers do not show what was missed.
            account(node.settle(), outcome, None if compressed else node.sent)
            node.end(outcome, f"{name}: seconds to end")
    return outcome


def _flood(node: RunningNode, frames: Frames, count: int, name: str, outcome: Outcome) -> None:
    """Send `count` hostile messages; in the node with compressed images publishers of its images come and go, too."""
    makers, rng = HostileMessages(frames.images[0], frames.intrinsics), np.random.default_rng(1)
    publishers: dict[str, Callable[[Any], None]] = {
        topic: node.recorder.create_publisher(kind, topic, QoSProfile(depth=50)).publish
        for topic, kind in TOPICS.items()}
    publishers[node.camera.topic] = node.camera.publish
    weights = np.array([5.0 if topic == node.camera.topic else 1.0 for topic in publishers])
    order = rng.choice(list(publishers), count, p=weights / weights.sum())
    changed = list(TOPICS) + ([node.camera.topic] if name == "compressed" else [])
    parameters, other = node.recorder.create_client(SetParameters, f"{NODE}/set_parameters"), _OtherPublisher(node)
    lines, memory, began = node.log_lines(), node.resident_mb(), time.monotonic()
    for index, topic in enumerate(tqdm(order, unit="message", desc=name, disable=None)):
        publishers[topic](makers.make(topic))
        if index % _SET_PARAMETERS == 0:
            parameters.call_async(SetParameters.Request(parameters=_parameters(rng)))
        if index % _CHANGE_PUBLISHERS == 0:
            other.change(changed[rng.integers(len(changed))])
        node.until(lambda: True, 0.0)  # it lives
        node.spin_once()
        while time.monotonic() - began < index / _RATE:
            node.spin_once()
    other.close()
    seconds = time.monotonic() - began
    node.spin(2.0)
    status, rate = node.status(), (node.log_lines() - lines) / max(seconds, _LOG_SECONDS)
    outcome.figures |= {f"{name}: messages a second": round(count / seconds), f"{name}: log lines a second":
                        round(rate, 1), f"{name}: memory MB": [round(memory), round(node.resident_mb())],
                        f"{name}: images refused": int(status["images refused"])}
    outcome.require(rate < _MAX_LOG_RATE, f"{name}: {rate:.1f} lines a second in the log")


class _OtherPublisher:
    """A best-effort publisher that comes and goes, so that the node subscribes anew."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node.recorder
        self._kinds = {**TOPICS, node.camera.topic: node.camera.kind}
        self._publisher: Any = None

    def change(self, topic: str) -> None:
        """Destroy the publisher, or create one on `topic`."""
        if self._publisher is None:
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._publisher = self._node.create_publisher(self._kinds[topic], topic, qos)
        else:
            self.close()

    def close(self) -> None:
        """Destroy the publisher."""
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
        self._publisher = None


def _parameter(name: str, value: Any) -> Parameter:
    return Parameter(name, value=value)


def _parameters(rng: np.random.Generator) -> list[Any]:
    """Return parameters that must be refused: unknown, of another type, out of range, or not to be changed."""
    values: list[Callable[[], tuple[str, Any]]] = [
        lambda: (f"unknown.{rng.integers(10**9)}", 1), lambda: ("map.max_depth", float("nan")),
        lambda: ("map.max_depth", "x" * 5000), lambda: ("windows.size", int(rng.integers(-(2**62), 2**62))),
        lambda: ("mode", "\u202e"), lambda: ("tf.base_frame", ""), lambda: ("scale.factor", -1e300)]
    return [_parameter(*values[rng.integers(len(values))]()).to_parameter_msg() for _ in range(rng.integers(1, 5))]
