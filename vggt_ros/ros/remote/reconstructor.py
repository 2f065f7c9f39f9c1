"""The reconstructor `remote`: windows are solved by a `reconstruction_server` on another machine, by an action.

It runs in the process of the reconstructor, like any other, with a node of its own there. A window is sent again when
the server shows no sign of life, such as after it was killed: nothing is lost while the server is away, the windows
wait. Or a reconstructor of this machine solves them after a deadline.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from vggt_ros_msgs.action import ReconstructWindow

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction import create
from vggt_ros.reconstruction.base import ReconstructionRefused, Reconstructor, ReconstructorUnavailable, WindowGeometry
from vggt_ros.reconstruction.remote_settings import RemoteConfig
from vggt_ros.ros.common.dds_profile import use_given_transports
from vggt_ros.ros.remote.simulated_link import SimulatedLink
from vggt_ros.ros.remote.window_messages import MessageError, geometry_bytes, goal_bytes, message_geometry, window_goal
from vggt_ros.windows.keyframe import Window

log = logging.getLogger(__name__)
_POLL, _PING, _PAUSE, _LOG_PERIOD = 0.02, 0.3, 0.5, 10.0
"""Periods of looking for the answer, of empty goals, of attempts while there is no server, and of the log, seconds."""
_RECENT = 2.0
"""A server that answered in this time, seconds, is sent windows without an empty goal first."""
_MAX_PATIENCE = 60.0
"""Longest time without a sign of life of a server that answers empty goals, seconds; `remote.silence` is the first."""
_LOST = ("it answers, but not to a window, which is sent again and may take {:.0f} s; if the link loses packets, start "
         "both sides with FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA")
_PATCH = 14
"""Width and height of the images are multiples of it."""
Result = ReconstructWindow.Result


class Remote:
    """Sends windows to a server; see `Reconstructor`.

    Attributes:
        status_values: the server and the figures of the link.

    """

    name, adjusted, on_cpu = "remote", True, False

    def __init__(self, config: Config) -> None:
        """Create the client; `load` waits for the server.

        Raises:
            ReconstructorUnavailable: the fallback is remote, too.

        """
        self._config, self._settings = config, config.of(RemoteConfig)
        settings = self._settings
        if settings.fallback == self.name:
            raise ReconstructorUnavailable("remote.fallback: remote cannot be its own fallback; set wait, or the name "
                                           "of a reconstructor of this machine")
        self._link = SimulatedLink(settings.link_delay / 1e3, settings.link_loss / 100, settings.link_rate * 1e6)
        self._fallback: Reconstructor | None = None
        self._client_id, self._server, self._last_log = str(uuid.uuid4()), "not reached yet", 0.0
        self._sent = self._sends = self._received = self._repeated = self._fallbacks = self._windows = 0
        self._round_trips: deque[float] = deque(maxlen=20)
        self._server_seconds: deque[float] = deque(maxlen=20)
        self._sign_of_life, self._patience = -np.inf, settings.silence
        use_given_transports()
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)  # without the names and remappings of the node's command line
        self._node = Node("vggt_remote", context=self._context, use_global_arguments=False)
        self._actions = ActionClient(self._node, ReconstructWindow, f"{settings.server.rstrip('/')}/reconstruct")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="vggt_remote", daemon=True)
        self._thread.start()

    def load(self, progress: Callable[[str], None], download: bool) -> None:
        """Wait until the server answers, without end if there is no fallback."""
        fallback, began = self._settings.fallback, time.monotonic()
        if fallback != "wait":
            self._fallback = create(fallback, self._config, progress)
        while not self._ping(began + self._settings.deadline if self._fallback is not None else np.inf):
            progress(f"waiting for the reconstruction server {self._settings.server}")
            if self._fallback is not None and time.monotonic() - began > self._settings.deadline:
                log.warning("remote: no server %s yet; windows are solved by %s until it is there",
                            self._settings.server, fallback)
                return
            time.sleep(0.1)

    @property
    def status_values(self) -> dict[str, str]:
        """Entries for the status: the server, and figures of the link, medians of the newest 20 windows."""
        return {"remote server": f"{self._settings.server}: {self._server}",
                "remote windows": str(self._windows), "remote windows sent again": str(self._repeated),
                "remote windows by fallback": str(self._fallbacks),
                "remote sent MB": f"{self._sent / 1e6:.2f}", "remote received MB": f"{self._received / 1e6:.2f}",
                "remote round trip s": _median(self._round_trips), "remote server s": _median(self._server_seconds)}

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height) of the images: multiples of 14 near the camera's aspect ratio, not portrait."""
        columns = max(min(self._settings.width, camera.width) // _PATCH, 1)
        rows = round(columns * camera.height / camera.width)
        return _PATCH * columns, _PATCH * min(max(rows, 1), columns)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Let the server solve a window.

        Raises:
            ReconstructionRefused: the window cannot be solved.

        """
        goal = window_goal(window, self._client_id, self._settings.jpeg_quality, self._settings.lossless)
        began, sends = time.monotonic(), self._sends
        while True:
            deadline = began + self._settings.deadline if self._fallback is not None else np.inf
            result = self._attempt(goal, float(deadline), again=self._sends > sends)
            if result is not None and result.outcome == Result.REFUSED:
                raise ReconstructionRefused(result.reason)
            if result is not None and result.outcome == Result.SOLVED:
                try:
                    geometry = message_geometry(result.geometry)
                except MessageError as error:
                    self._say(f"its answer cannot be used: {error}")
                else:
                    self._server, self._windows = result.reconstructor, self._windows + 1
                    self._round_trips.append(time.monotonic() - began)
                    self._server_seconds.append(result.seconds)
                    return geometry
            elif result is not None:
                self._say(result.reason)
            if time.monotonic() > deadline:
                return self._fall_back(window)
            time.sleep(_PAUSE)

    def close(self) -> None:
        """End the client."""
        if self._fallback is not None and hasattr(self._fallback, "close"):
            self._fallback.close()
        self._executor.shutdown(timeout_sec=0.5)
        rclpy.try_shutdown(context=self._context)
        self._thread.join(1.0)  # a thread that is still in rclpy when the interpreter exits aborts the process

    def _attempt(self, goal: Any, deadline: float, again: bool) -> Any:
        """Send a goal, possibly `again`, and return the result; None if no server takes it, or shows a sign of life."""
        if not self._ping(deadline):
            self._server = "not reached"
            self._say("it is not there" if not self._actions.server_is_ready() else "it does not answer")
            return None
        size = goal_bytes(goal)
        time.sleep(self._link.seconds(size))
        self._sent, self._sends, self._repeated = self._sent + size, self._sends + 1, self._repeated + again
        self._sign_of_life = began = time.monotonic()
        accepted = self._wait(self._actions.send_goal_async(goal, self._on_feedback), deadline)
        if accepted is None or not accepted.accepted:
            self._say("it is still loading, or has too much to do" if accepted is not None else
                      _LOST.format(self._patience))
            return None
        arrival = time.monotonic() - began
        response = self._wait(accepted.get_result_async(), deadline)
        if response is None:
            accepted.cancel_goal_async()
            self._say("it gives no sign of life, or the deadline has passed")
            return None
        self._patience = max(self._settings.silence, 2 * arrival)
        size = geometry_bytes(response.result.geometry)
        time.sleep(self._link.seconds(size))
        self._received += size
        return response.result

    def _ping(self, deadline: float) -> bool:
        """Return whether the server answers an empty goal, which is repeated, or answered just now.

        DDS lists a server before the server has found the client, and up to 20 s after it was killed. A window that
        is sent then gets no answer, which costs `remote.silence` and its bytes.
        """
        pings: list[Any] = []
        began = now = time.monotonic()
        while now > self._sign_of_life + _RECENT and now < min(deadline, began + self._settings.silence):
            if not self._actions.server_is_ready():
                break
            if now >= began + len(pings) * _PING:
                pings.append(self._actions.send_goal_async(ReconstructWindow.Goal(client=self._client_id)))
            time.sleep(_POLL)
            now = time.monotonic()
            if any(ping.done() for ping in pings):
                self._sign_of_life = now
        heard = now <= self._sign_of_life + _RECENT
        for ping in pings if not heard else ():  # otherwise the others are answered, too
            ping.cancel()
        return heard

    def _wait(self, future: Any, deadline: float) -> Any:
        """Return what a future of rclpy brings; None after the deadline, or if the server is silent.

        The next time it may be silent for twice as long: a window may need that to arrive.
        """
        while not future.done():
            now = time.monotonic()
            if now > deadline or now - self._sign_of_life > self._patience:
                self._sign_of_life, self._patience = -np.inf, min(2 * self._patience, _MAX_PATIENCE)
                return None
            time.sleep(_POLL)
        self._sign_of_life = time.monotonic()
        return future.result()

    def _on_feedback(self, message: Any) -> None:
        self._sign_of_life = time.monotonic()

    def _fall_back(self, window: Window) -> WindowGeometry:
        """Solve a window on this machine, and say so."""
        assert self._fallback is not None
        self._fallbacks += 1
        self._say(f"window {window.id} is solved by {self._fallback.name} on this machine")
        return self._fallback.reconstruct(window)

    def _say(self, what: str) -> None:
        """Log what is wrong, at most every ten seconds."""
        if time.monotonic() - self._last_log > _LOG_PERIOD:
            self._last_log = time.monotonic()
            log.warning("remote: the server %s: %s", self._settings.server, what)

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()


def _median(values: deque[float]) -> str:
    return f"{np.median(list(values)):.2f}" if values else "none"
