"""A reconstructor created on another thread: loading weights takes minutes, and the node must stay responsive."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera, CameraError
from vggt_ros.reconstruction.base import Reconstructor, ReconstructorLost, WindowGeometry
from vggt_ros.windows.keyframe import Window

log = logging.getLogger(__name__)
LOADING, READY, FAILED = "LOADING", "READY", "FAILED"
ProgressCallback = Callable[[str], None]
ReconstructorFactory = Callable[[Config, ProgressCallback], tuple[Reconstructor, str]]
"""Creates a reconstructor, returns it with the reason for the choice, and reports the loading progress."""
_MAX_LOSSES = 3
"""Number of losses in a row, without a window that was solved, after which the reconstructor is not created again."""


class DeferredReconstructor:
    """Proxy of a reconstructor: `load` creates it, then all calls are forwarded to it.

    A reconstructor that is lost, with its process or with the context of its GPU, is created again, and the window that
    it could not solve is tried once more.

    Attributes:
        name: name of the reconstructor, `none` before it is loaded.
        state: `LOADING`, then `READY` or `FAILED`.
        detail: the loading progress; then which reconstructor was selected, and why; or what failed.
        problem: what went wrong in the preparation for the camera's images, empty if nothing did.
        reloads: number of times that it was lost and created again.
        was_ready: whether it has been ready; from then on images are tracked, also while it is created again.

    """

    def __init__(self, factory: ReconstructorFactory, config: Config) -> None:
        """Store the factory; `load` calls it."""
        self._factory, self._config = factory, config
        self._reconstructor: Any = None
        self._closed = False
        self._losses = 0
        self._size: tuple[int, int] | None = None
        self._image_size: Callable[[Camera], tuple[int, int]] | None = None
        self._loss = ""
        self.name = "none"
        self.state, self.detail, self.problem = LOADING, "loading", ""
        self.reloads = 0
        self.was_ready = False

    @property
    def status_values(self) -> Mapping[str, str]:
        """Entries of the reconstructor for the status message, such as model and device."""
        return getattr(self._reconstructor, "status_values", {})

    def load(self) -> None:
        """Create the reconstructor, on the thread that will use it; `state`, `detail` and the log report a failure."""
        try:
            self._reconstructor, detail = self._factory(self._config, self._report_progress)
        except Exception as error:  # whatever it is, the node stays up and can be configured again
            self.state, self.detail = FAILED, f"no reconstructor: {error}"
            if not self._closed:
                log.error("%s; fix this and configure the node again", self.detail)
            return
        self.name, self.detail, self._loss = self._reconstructor.name, detail, ""
        self._image_size = self._reconstructor.image_size
        self.state, self.was_ready = READY, True
        log.info("reconstructor: %s", self.detail)

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height) to which images of this camera must be rectified.

        Raises:
            RuntimeError: it is not loaded.
            CameraError: it was lost, and the size for this camera was never asked for.

        """
        if self._image_size is None:
            raise RuntimeError(self.detail)
        try:
            return self._image_size(camera)
        except ReconstructorLost as loss:
            raise CameraError(f"the size of its images is not known yet, because {loss}") from loss

    def prepare(self, width: int, height: int) -> None:
        """Prepare for images of this size if the reconstructor supports it; on the thread that uses it.

        What goes wrong is in the log and in `problem`: windows may still be solved, or say themselves why not.
        """
        self._size = width, height
        reconstructor = self._reconstructor
        if self._closed or not hasattr(reconstructor, "prepare"):
            return
        self.problem, chosen = "", self.detail
        try:
            if len(inspect.signature(reconstructor.prepare).parameters) > 2:
                reconstructor.prepare(width, height, self._report_progress)
            else:
                reconstructor.prepare(width, height)
        except ReconstructorLost as loss:
            self._recover(loss)
            return
        except Exception as error:
            if not self._closed:
                self.problem = f"not prepared for images of {width}x{height}: {error}"
                log.error("the reconstructor is %s", self.problem)
        self.detail = chosen

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window.

        Raises:
            ReconstructionRefused: the window cannot be solved.
            RuntimeError: the reconstructor is not loaded, or was lost.

        """
        for _ in range(2):
            try:
                geometry = self._require_ready().reconstruct(window)
            except ReconstructorLost as loss:
                self._recover(loss)
                continue
            self._losses = 0
            return geometry
        raise RuntimeError(f"the window was given up, because the reconstructor was lost twice; {self.detail}")

    def take_description(self, keyframe: int) -> Any:
        """Return what the process of the reconstructor has found in a keyframe's image; None if it has nothing."""
        return self._reconstructor.take_description(keyframe) if hasattr(self._reconstructor, "take_description") \
            else None

    def cancel(self) -> None:
        """Cancel the loading at its next progress report, and what else takes long if it can be; from any thread."""
        self._closed = True
        if hasattr(self._reconstructor, "cancel"):
            self._reconstructor.cancel()

    def close(self) -> None:
        """Release the resources of the reconstructor; after the last use."""
        self._closed = True
        if hasattr(self._reconstructor, "close"):
            self._reconstructor.close()

    def _recover(self, loss: ReconstructorLost) -> None:
        """Create a lost reconstructor again, and prepare it as before."""
        if self._closed:
            raise RuntimeError(str(loss))
        self._losses += 1
        self.state, self.detail = FAILED, f"the reconstructor was lost: {loss}"
        lost, self._reconstructor = self._reconstructor, None
        if hasattr(lost, "close"):
            lost.close()
        if self._losses >= _MAX_LOSSES:
            self.detail += f"; it was lost {self._losses} times in a row and is not created again"
            log.error("%s; fix this and configure the node again", self.detail)
            return
        log.error("%s; it is created again", self.detail)
        self._loss = f"{self.detail}; created again: "
        self.reloads += 1
        self.load()
        if self.state == READY and self._size is not None:
            self.prepare(*self._size)

    def _report_progress(self, progress: str) -> None:
        if self._closed:
            raise RuntimeError("closed while loading")
        self.detail = self._loss + progress

    def _require_ready(self) -> Reconstructor:
        if self._reconstructor is None:
            raise RuntimeError(self.detail)
        return self._reconstructor
