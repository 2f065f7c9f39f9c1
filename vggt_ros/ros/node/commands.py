"""The commands of the node behind its services; see `interfaces` for their names and types."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from rclpy.parameter import Parameter

from vggt_ros.ros.node.parts import NodeParts
from vggt_ros.ros.node.services import CommandSteps, Handler, plain


class NodeCommands:
    """Handlers of the services of a configured node."""

    def __init__(self, node: NodeParts, reset: Callable[[str], Future[Any]]) -> None:
        """Command `node`; `reset` begins a new map, for a reason to log."""
        self._node, self._reset_map = node, reset

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by the names of their services."""
        node = self._node
        return {
            "reset": plain(self._reset), "pause": plain(self._pause), "resume": plain(self._resume),
            "reset_odometry": plain(self._reset_odometry),
            "save_map": plain(node.maps.save), "load_map": plain(node.maps.load), "get_map": self._get_map,
            "save_named_map": self._save_named, "load_named_map": self._load_named, "set_mode": self._set_mode,
            "localize": self._localize,
        }

    def _reset(self) -> CommandSteps:
        yield self._reset_map("~/reset was called")
        return "the map is empty" if self._node.config.mode == "mapping" else "the saved map is loaded again"

    def _pause(self) -> CommandSteps:
        yield from ()
        self._require_active()
        if self._node.is_paused:
            return "the node was paused already"
        self._node.pause()
        return "images are left out until ~/resume is called; the map and map -> odom stay"

    def _resume(self) -> CommandSteps:
        yield from ()
        self._require_active()
        if not self._node.is_paused:
            return "the node was not paused"
        self._node.resume()
        return "images are taken again"

    def _reset_odometry(self) -> CommandSteps:
        yield from ()
        self._require_active()
        if not self._node.transforms.reset_odometry():
            raise RuntimeError("no image has had a pose yet")
        self._node.outputs.interrupt()
        return f"{self._node.transforms.odom_frame} begins where the base is now, z up; the map is the same"

    def _save_named(self, request: Any, response: Any) -> CommandSteps:
        folder = yield from self._node.maps.save(request.name)
        response.keyframes = self._node.maps.saved_keyframes
        return folder

    def _load_named(self, request: Any, response: Any) -> CommandSteps:
        loaded = yield from self._node.maps.load(request.name)
        response.keyframes = self._node.maps.loaded_keyframes
        return loaded

    def _set_mode(self, request: Any, response: Any) -> CommandSteps:
        yield from ()
        result = self._node.set_parameters([Parameter("mode", value=request.mode)])[0]
        if not result.successful:
            raise RuntimeError(result.reason)
        return f"the mode is {request.mode}"

    def _localize(self, request: Any, response: Any) -> CommandSteps:
        yield from ()
        self._require_active()
        return self._node.initial_pose.search(request.pose)

    def _get_map(self, request: Any, response: Any) -> CommandSteps:
        response.map = yield from self._node.outputs.whole_grid()
        return ""

    def _require_active(self) -> None:
        if not self._node.is_active:
            raise RuntimeError("the node is not active")
