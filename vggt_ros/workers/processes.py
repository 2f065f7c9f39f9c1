"""A worker in a process of its own on this machine."""

from __future__ import annotations

from functools import partial
from typing import Any

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.process import ReconstructorProcess
from vggt_ros.workers.requests import Answer, Request
from vggt_ros.workers.worker import Create, create_answerer, create_unrefined


class ProcessWorker:
    """Answers requests in a child process; see `Worker`."""

    def __init__(self, config: Config, create: Create = create_unrefined) -> None:
        """Start the process and create the reconstructor in it; raises as `ReconstructorProcess` does."""
        self._process = ReconstructorProcess(config, partial(create_answerer, create))
        self.name, self.reason = self._process.name, self._process.reason
        self.carries = self._process.status_values["carries"]
        self.adjusted = self._process.status_values["adjusted"] == "yes"

    @property
    def pid(self) -> int | None:
        """Number of the process."""
        return self._process.pid

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the images that the reconstructor needs from this camera."""
        return self._process.image_size(camera)

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request; raises ReconstructorLost if the process has ended."""
        window: Any = request  # what the process has as its reconstructor takes requests
        result: Any = self._process.reconstruct(window)
        answer: Answer = result
        return answer

    def cancel(self) -> None:
        """End what the process does, after a moment in which it may finish."""
        self._process.cancel()

    def close(self) -> None:
        """End the process."""
        self._process.close()
