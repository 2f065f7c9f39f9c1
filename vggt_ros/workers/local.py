"""A worker in this process: for reconstructors that mostly wait, and to compare others with."""

from __future__ import annotations

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.workers.requests import Answer, Request
from vggt_ros.workers.worker import Create, create_answerer, create_unrefined


class LocalWorker:
    """Answers requests in the thread that asks; see `Worker`."""

    def __init__(self, config: Config, create: Create = create_unrefined) -> None:
        """Create the reconstructor; raises as `create` does."""
        self._answerer, self.reason = create_answerer(create, config, lambda text: None)
        self.name: str = self._answerer.name
        self.carries: str = self._answerer.status_values["carries"]
        self.adjusted = self._answerer.status_values["adjusted"] == "yes"

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the images that the reconstructor needs from this camera."""
        size: tuple[int, int] = self._answerer.image_size(camera)
        return size

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request."""
        result: Answer = self._answerer.reconstruct(request)
        return result

    def cancel(self) -> None:
        """Do nothing: the thread that asks is not interrupted."""

    def close(self) -> None:
        """Free what the reconstructor holds."""
        self._answerer.close()
