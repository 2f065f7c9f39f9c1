"""A reconstructor that is made on another thread: loading weights takes minutes, and the node must answer meanwhile."""

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
Progress = Callable[[str], None]
Create = Callable[[Config, Progress], tuple[Reconstructor, str]]
"""Makes a reconstructor and says why it is this one; tells how far it is."""


class Deferred:
    """Stands for a reconstructor until `load` has made it, and hands on to it from then on.

    Attributes:
        name: of the reconstructor, `none` before there is one.
        state: `LOADING`, then `READY` or `FAILED`.
        why: how far the loading is; then who reconstructs, and why; or what failed.

    """

    def __init__(self, create: Create, config: Config) -> None:
        """Take how it is made."""
        self._create, self._config = create, config
        self._made: Any = None
        self._closed = False
        self.name = "none"
        self.state, self.why = LOADING, "loading"

    @property
    def facts(self) -> Mapping[str, str]:
        """What it tells of itself for the status, such as its model and device."""
        return getattr(self._made, "facts", {})

    def load(self) -> None:
        """Make the reconstructor, on the thread that will use it; a failure is said in `state`, `why` and the log."""
        try:
            self._made, self.why = self._create(self._config, self._note)
        except Exception as error:  # whatever it is, the node stays up and can be configured anew
            self.state, self.why = FAILED, f"no reconstructor: {error}"
            if not self._closed:
                log.error("%s; configure again when that is mended", self.why)
            return
        self.name, self.state = self._made.name, READY
        log.info("reconstructor: %s", self.why)

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the images that it wants from this camera."""
        return self._ready().image_size(camera)

    def prepare(self, width: int, height: int) -> None:
        """Let it prepare for images of this size, where there is something to prepare; on the thread that uses it."""
        if hasattr(self._made, "prepare"):
            self._made.prepare(width, height)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window; raises as the reconstructor does, or RuntimeError if there is none."""
        return self._ready().reconstruct(window)

    def stop(self) -> None:
        """End the loading at its next sign of progress."""
        self._closed = True

    def close(self) -> None:
        """Give back what the reconstructor holds; after the last use."""
        self._closed = True
        if hasattr(self._made, "close"):
            self._made.close()

    def _note(self, progress: str) -> None:
        if self._closed:
            raise RuntimeError("closed while it was loading")
        self.why = progress

    def _ready(self) -> Reconstructor:
        if self._made is None:
            raise RuntimeError(self.why)
        return self._made
