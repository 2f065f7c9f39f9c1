"""A window to solve, with all that its result depends on, and the answer: a pure function of the request."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vggt_ros.reconstruction.base import ReconstructionRefused, ReconstructorLost, WindowGeometry
from vggt_ros.settings import ConfigError
from vggt_ros.windows.keyframe import Keyframe, Window

CARRIES = ("never", "uncalibrated", "always")
"""Which windows depend on those before; see `OptionalMembers`."""


@dataclass(frozen=True, eq=False)
class Carried:
    """What a reconstructor takes from the windows before to the next one, packed; None: nothing came before."""

    packed: bytes | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """A window, and what is carried to it."""

    window: Window
    carried: Carried


@dataclass(frozen=True, eq=False)
class Answer:
    """The result of a request.

    Attributes:
        geometry: of the window; None if it was refused or failed.
        refused: why the window was refused.
        failed: the error of the reconstructor.
        carried: what is carried to the next window; None: the same as to this one.

    """

    geometry: WindowGeometry | None
    refused: str = ""
    failed: Exception | None = None
    carried: Carried | None = None

    def result(self) -> WindowGeometry:
        """Return the geometry, or raise what the reconstructor raised."""
        if self.geometry is not None:
            return self.geometry
        if self.failed is not None:
            raise self.failed
        raise ReconstructionRefused(self.refused)


def check_carries(reconstructor: Any) -> None:
    """Raise ConfigError if a reconstructor does not say what it carries from window to window."""
    if getattr(reconstructor, "carries", "") not in CARRIES or not hasattr(reconstructor, "carried"):
        raise ConfigError(f"reconstructor: {reconstructor.name} does not say what it takes from one window to the next "
                          "(`carries` and `carried`), so its windows cannot be solved by workers")


def answer(reconstructor: Any, request: Request, initial: tuple[Any, ...]) -> Answer:
    """Solve a window; what is `initial` carried to a first window.

    Raises:
        ReconstructorLost: the reconstructor cannot go on; the request can be answered by another one.

    """
    packed = request.carried.packed
    before = initial if packed is None else pickle.loads(packed)
    reconstructor.carried = before
    geometry, refused, failed = None, "", None
    try:
        geometry = reconstructor.reconstruct(request.window)
    except ReconstructionRefused as refusal:
        refused = str(refusal)
    except ReconstructorLost:
        raise
    except Exception as error:
        failed = RuntimeError(f"{type(error).__name__}: {error}")
    after = reconstructor.carried
    same = len(before) == len(after) and all(_same(one, other) for one, other in zip(before, after, strict=True))
    return Answer(geometry, refused, failed,
                  None if same else Carried(pickle.dumps(after, protocol=pickle.HIGHEST_PROTOCOL)))


def plain(window: Window) -> Window:
    """Return a window with only what a reconstructor may use: not the tracker's poses nor its binary features."""
    return replace(window, keyframes=tuple(replace(keyframe, map_camera=None, binary=None)
                                           for keyframe in window.keyframes))


def fingerprint(window: Window) -> bytes:
    """Return a digest that is equal for windows with the same contents."""
    digest = hashlib.blake2b(repr((window.id, window.shared)).encode(), digest_size=16)
    for keyframe in window.keyframes:
        digest.update(_fingerprint(keyframe))
    return digest.digest()


def _fingerprint(keyframe: Keyframe) -> bytes:
    digest = hashlib.blake2b(repr((keyframe.id, keyframe.stamp, keyframe.calibrated, keyframe.image.shape)).encode())
    corners = keyframe.corners
    arrays = [keyframe.image, keyframe.intrinsics, keyframe.excluded,
              *((corners.ids, corners.pixels, corners.velocity) if corners is not None else ())]
    for array in arrays:
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _same(one: Any, other: Any) -> bool:
    """Return whether two carried objects are the same, or equal numbers."""
    return one is other or (isinstance(one, int | float | str | tuple) and one == other)
