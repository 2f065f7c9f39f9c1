"""A node in a process of its own, as a benchmark or the demo starts it: its log, its end, its lifecycle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

_ANSWER_TIMEOUT = 60.0
"""Longest wait for a service of the node, seconds."""
_REQUESTS = 4
"""How often a transition is asked for in that time: DDS loses a request that comes before the node has found the
client."""
_GOALS = {"configure": "inactive", "activate": "active", "deactivate": "inactive", "cleanup": "unconfigured"}


class NodeError(Exception):
    """The node does not start, does not respond, or ends early; the text gives the reason and the end of its log."""


def slam_command(parameters: Path | None, settings: Mapping[str, Any], remaps: Mapping[str, str]) -> list[str]:
    """Return the command that starts the node with a parameter file, settings that override it, and remapped topics."""
    command = [sys.executable, "-m", "vggt_ros.ros.node.start", "--ros-args"]
    command += [] if parameters is None else ["--params-file", str(parameters)]
    for name, value in settings.items():
        command += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    for name, topic in remaps.items():
        command += ["-r", f"{name}:={topic}"]
    return command


@contextmanager
def running(command: list[str], log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
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


class ProcessWatch:
    """Spins until a condition holds, and raises an error if the node process has ended."""

    def __init__(self, executor: SingleThreadedExecutor, process: subprocess.Popen[bytes], log: Path) -> None:
        """Watch `process`, whose output is in `log`, while spinning `executor`."""
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


class Lifecycle:
    """Requests lifecycle transitions of a node."""

    def __init__(self, node: Node, watch: ProcessWatch, name: str) -> None:
        """Request from `node` the transitions of the node `name`, whose process is watched."""
        self._watch, self._name = watch, name
        self._client = node.create_client(ChangeState, f"{name}/change_state")
        self._states = node.create_client(GetState, f"{name}/get_state")

    def change(self, *transitions: str) -> None:
        """Request transitions, such as `configure`, one after the other; raises NodeError if one is refused."""
        for transition in transitions:
            self._change(transition)

    def _change(self, transition: str) -> None:
        request = ChangeState.Request()
        request.transition.id = getattr(Transition, f"TRANSITION_{transition.upper()}")
        if not self._watch.until(self._client.service_is_ready, _ANSWER_TIMEOUT):
            raise NodeError(f"{self._name} has no lifecycle services after {_ANSWER_TIMEOUT:g} s")
        answers = []
        for _ in range(_REQUESTS):
            answers.append(self._client.call_async(request))
            if self._watch.until(lambda: any(answer.done() for answer in answers), _ANSWER_TIMEOUT / _REQUESTS):
                break
        given = [answer.result() for answer in answers if answer.done()]
        # An answer may be lost as well; the node then refuses what it has done already.
        is_done = len(answers) > 1 and given and self._state() == _GOALS.get(transition)
        if not is_done and not any(answer.success for answer in given):
            raise NodeError(f"{self._name} {'refused' if given else 'did not answer the request'} to {transition}; "
                            f"{self._watch.log_tail()}")

    def _state(self) -> str | None:
        """Return the label of the node's lifecycle state, or None if it does not answer."""
        if not self._watch.until(self._states.service_is_ready, _ANSWER_TIMEOUT):
            return None
        answer = self._states.call_async(GetState.Request())
        return answer.result().current_state.label if self._watch.until(answer.done, _ANSWER_TIMEOUT) else None
