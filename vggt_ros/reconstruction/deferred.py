"""A reconstructor created on another thread: loading weights takes minutes, and the node must stay responsive."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import Reconstructor, WindowGeometry
from vggt_ros.windows.keyframe import Window

log = logging.getLogger(__name__)
LOADING, READY, FAILED = "LOADING", "READY", "FAILED"
ProgressCallback = Callable[[str], None]
ReconstructorFactory = Callable[[Config, ProgressCallback], tuple[Reconstructor, str]]
"""Creates a reconstructor, returns it with the reason for the choice, and reports the loading progress."""


class DeferredReconstructor:
    """Proxy of a reconstructor: `load` creates it, then all calls are forwarded to it.

    Attributes:
        name: name of the reconstructor, `none` before it is loaded.
        state: `LOADING`, then `READY` or `FAILED`.
        detail: the loading progress; then which reconstructor was selected, and why; or what failed.

    """

    def __init__(self, factory: ReconstructorFactory, config: Config) -> None:
        """Store the factory; `load` calls it."""
        self._factory, self._config = factory, config
        self._reconstructor: Any = None
        self._closed = False
        self.name = "none"
        self.state, self.detail = LOADING, "loading"

    @property
    def status_values(self) -> Mapping[str, str]:
        """Entries of the reconstructor for the status message, such as model and device."""
        return getattr(self._reconstructor, "status_values", {})

    def load(self) -> None:
        """Create the reconstructor, on the thread that will use it; `state`, `detail` and the log report a failure."""
        try:
            self._reconstructor, self.detail = self._factory(self._config, self._report_progress)
        except Exception as error:  # whatever it is, the node stays up and can be configured again
            self.state, self.detail = FAILED, f"no reconstructor: {error}"
            if not self._closed:
                log.error("%s; fix this and configure the node again", self.detail)
            return
        self.name, self.state = self._reconstructor.name, READY
        log.info("reconstructor: %s", self.detail)

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height) to which images of this camera must be rectified; RuntimeError if not loaded."""
        return self._require_ready().image_size(camera)

    def prepare(self, width: int, height: int) -> None:
        """Prepare for images of this size if the reconstructor supports it; on the thread that uses it."""
        if hasattr(self._reconstructor, "prepare"):
            self._reconstructor.prepare(width, height)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window; raises what the reconstructor raises, or RuntimeError if it is not loaded."""
        return self._require_ready().reconstruct(window)

    def interrupt(self) -> None:
        """Cancel the loading at its next progress report, and give up the window that is being solved, if it can be.

        From any thread, before `close`.
        """
        self._closed = True
        if hasattr(self._reconstructor, "interrupt"):
            self._reconstructor.interrupt()

    def close(self) -> None:
        """Release the resources of the reconstructor; after the last use."""
        self._closed = True
        if hasattr(self._reconstructor, "close"):
            self._reconstructor.close()

    def _report_progress(self, progress: str) -> None:
        if self._closed:
            raise RuntimeError("closed while loading")
        self.detail = progress

    def _require_ready(self) -> Reconstructor:
        if self._reconstructor is None:
            raise RuntimeError(self.detail)
        return self._reconstructor
