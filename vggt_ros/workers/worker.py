"""The interface of a worker, which answers one request at a time, and what answers in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.workers.requests import Answer, Request, answer, check_carries

Create = Callable[[Config, Callable[[str], None]], tuple[Reconstructor, str]]
"""Creates a reconstructor where the worker is: a function of a module, or a `functools.partial` of one."""


class Worker(Protocol):
    """Answers requests, one at a time, by a reconstructor that it keeps.

    Attributes:
        name: of the reconstructor.
        reason: why it was chosen.
        carries, adjusted: as of the reconstructor, see `OptionalMembers`.

    """

    name: str
    reason: str
    carries: str
    adjusted: bool

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height) to which images of this camera must be rectified; from any thread."""
        ...

    def answer(self, request: Request) -> Answer:
        """Return the answer; raises ReconstructorLost if this worker cannot answer any more."""
        ...

    def cancel(self) -> None:
        """End what the worker does, soon; from any thread."""
        ...

    def close(self) -> None:
        """End the worker, when it answers nothing."""
        ...


def create_unrefined(config: Config, progress: Callable[[str], None]) -> tuple[Reconstructor, str]:
    """Create the reconstructor of the settings, without refinement: that needs the window before, so it is done later.

    Raises as `create_reconstructor`.
    """
    return create_reconstructor(config.replace({"refine": "off"}), progress)


class Answerer:
    """A reconstructor that answers requests, with the interface of a reconstructor of windows."""

    def __init__(self, reconstructor: Any) -> None:
        """Answer by this reconstructor; raises ConfigError if it does not say what it carries."""
        check_carries(reconstructor)
        self._inner, self._initial = reconstructor, reconstructor.carried
        self.name: str = reconstructor.name
        self.on_cpu = bool(getattr(reconstructor, "on_cpu", False))
        self.status_values = {"carries": reconstructor.carries,
                              "adjusted": "yes" if getattr(reconstructor, "adjusted", False) else "no"}

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the images that the reconstructor needs from this camera."""
        size: tuple[int, int] = self._inner.image_size(camera)
        return size

    def reconstruct(self, request: Request) -> Answer:
        """Return the answer to a request; raises ReconstructorLost."""
        return answer(self._inner, request, self._initial)

    def close(self) -> None:
        """Free what the reconstructor holds."""
        if hasattr(self._inner, "close"):
            self._inner.close()


def create_answerer(create: Create, config: Config, progress: Callable[[str], None]) -> tuple[Any, str]:
    """Create a reconstructor, and return it as one that answers requests, with the reason for the choice."""
    reconstructor, reason = create(config, progress)
    return Answerer(reconstructor), reason
