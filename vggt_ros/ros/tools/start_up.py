"""Time from the start of the node's process to its first odometry, beside a camera that already sends."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from vggt_ros.ros.tools.node_process import Lifecycle, NodeError, ProcessWatch, running
from vggt_ros.ros.tools.recorder import NODE
from vggt_ros.ros.tools.session import BagTopics, node_command, recording_node


@dataclass(frozen=True)
class StartUp:
    """When something was there first, seconds from the start of the process.

    Attributes:
        configured_s, active_s: the transitions were done, which `launch/slam.launch.py` asks for as well.
        ready_s: the reconstructor was ready; until then images are only counted.
        odometry_s: the first odometry arrived; before the first window is solved it says that the pose is unknown.
        tracking_s: the first window was solved and an image located, so that the odometry has a pose.

    """

    configured_s: float
    active_s: float
    ready_s: float
    odometry_s: float
    tracking_s: float


def measure_start_up(bag: Path, topics: BagTopics, parameters: Path, log: Path, timeout: float = 60.0) -> StartUp:
    """Play a bag in a loop, then start the node.

    Raises:
        NodeError: the node or the player failed, or something was not there within `timeout` seconds.

    """
    player = [sys.executable, "-m", "vggt_ros.ros.tools.bag_player", str(bag), "--clock", "--loop"]
    with running(player, log.with_name("player.log")) as camera, recording_node() as (recorder, executor):
        playing = ProcessWatch(executor, camera, log.with_name("player.log"))
        if not playing.until(lambda: recorder.count_publishers(topics.camera_info) > 0, timeout):
            raise NodeError("the camera was not found")
        playing.until(lambda: False, 1.0)
        began = time.monotonic()
        with running(node_command(topics, parameters, {}), log) as node:
            watch, times = ProcessWatch(executor, node, log), list[float]()
            lifecycle = Lifecycle(recorder, watch, NODE)
            for name in ("configure", "activate"):
                lifecycle.change(name)
                times.append(time.monotonic() - began)
            for what, condition in {
                    "a reconstructor": lambda: recorder.status.get("state", "LOADING") != "LOADING",
                    "odometry": lambda: bool(recorder.odometry),
                    "a pose": lambda: recorder.status.get("state") in ("TRACKING", "DEGRADED")}.items():
                if not watch.until(condition, timeout):
                    raise NodeError(f"{what} was not there within {timeout:g} s; {watch.log_tail()}")
                times.append(time.monotonic() - began)
            return StartUp(*times)
