"""The `Reconstructor` protocol, and the `WindowGeometry` that it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.windows.keyframe import Window
from vggt_ros.windows.tracks import Tracks


class ReconstructionRefused(Exception):
    """A window cannot be solved (no parallax, too few matches, an ambiguous solution); the text gives the reason."""


class ReconstructorLost(Exception):
    """A reconstructor cannot go on: its process has ended, or the context of its GPU is lost; create another one."""


class ReconstructorUnavailable(RuntimeError):
    """A reconstructor cannot run on this machine, or with these settings; the text gives the reason and the cure."""


@dataclass(frozen=True, eq=False)
class WindowGeometry:
    """The geometry of one window, in the optical frame of its first camera and with an arbitrary scale.

    It has `S` keyframes, usually all of the window; keyframes that could not be registered are left out. If it
    contradicts the window before (`revised` in `report`), it has keyframes of that as well, from the last one on that
    keeps its pose: see `Window.earlier`.

    Attributes:
        keyframe_ids: ids of the S keyframes.
        window_camera: camera poses, float64 (S, 4, 4), `window_camera[i] @ p_camera = p_window`; optical axes
            (x right, y down, z forward); the first is exactly the identity.
        intrinsics: float64 (S, 3, 3) for the size (h, w) of the depth; integer coordinates are pixel centers.
        depth: z along the optical axis, float32 (S, h, w), NaN where unknown; same aspect ratio as the images.
        confidence: rank in [0, 1], float32 (S, h, w), 0 where depth is unknown, 1 for the best pixel of the window.
        descriptors: one unit vector per keyframe for place recognition, float32 (S, D), or None.
        metric: True if the unit is the meter.
        report: statistics of this reconstruction for status and benchmarks (names with units, e.g. `residual_px`).
            `continued` is 1 if its unit is that of the window before, and `scale_sigma` the standard deviation of the
            logarithm of its new keyframes' scale then; `turned` counts keyframes that were placed by a turn on the spot
            alone, without depth; `revised` those of windows before that have another pose and depth now.
        step_covariance: how uncertain each keyframe's pose is in the frame of the one before it, float64 (S - 1, 6, 6),
            of perturbations on the right, [rotation, translation], radians and units of the window; None if not known.
        uncertainty: how many times more uncertain than usual the poses are, where `step_covariance` is not known.
        notes: what the user should know of this window, such as why it is less certain than usual.
        tracks: of its points, also through keyframes before it; None if they are not known. With them the whole map can
            be adjusted at once.

    """

    keyframe_ids: tuple[int, ...]
    window_camera: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    descriptors: NDArray[np.float32] | None = None
    metric: bool = False
    report: dict[str, float] = field(default_factory=dict)
    step_covariance: NDArray[np.float64] | None = None
    uncertainty: float = 1.0
    notes: tuple[str, ...] = ()
    tracks: Tracks | None = None

    def __post_init__(self) -> None:
        """Check shapes and values.

        Raises:
            ValueError: a shape is wrong, a pose is not finite, or the first pose is not the identity.

        """
        count, (height, width) = len(self.keyframe_ids), self.depth.shape[1:]
        for name, shape in (("window_camera", (count, 4, 4)), ("intrinsics", (count, 3, 3)),
                            ("depth", (count, height, width)), ("confidence", (count, height, width))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: shape {getattr(self, name).shape}, expected {shape}")
        if not np.isfinite(self.window_camera).all() or not np.array_equal(self.window_camera[0], np.eye(4)):
            raise ValueError("window_camera: not finite, or the first pose is not the identity")


class Reconstructor(Protocol):
    """Estimates the geometry of a window from its images.

    This is all that is required of an object. A class that is registered as a plug-in (`vggt_ros.plugins`) is created
    by `Class(config)`, with all settings; its own are `config.of(SettingsClass)`. It raises `ReconstructorUnavailable`
    if it cannot run. What it may have besides is in `OptionalMembers`.

    All calls but `image_size` and `cancel` come from one thread. Ids of keyframes and windows are never used twice, not
    even after a reset of the map, so there is nothing to reset.

    Attributes:
        name: under which it is registered.

    """

    name: str

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height) to which images of this camera must be rectified; the same for the same camera."""
        ...

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window; the images must not be changed, and what is returned must not change later.

        Raises:
            ReconstructionRefused: the window cannot be solved; the text gives the reason.
            ReconstructorLost: this reconstructor cannot solve any window any more; another one will be created.

        """
        ...


class OptionalMembers(Protocol):
    """What a reconstructor may have; each is used where it is there.

    Attributes:
        status_values: entries for `~/status`, such as model and device.
        on_cpu: True if it computes on the CPU: its process then gives way to tracking.
        adjusted: True if its poses are adjusted to the images already; else `refine: auto` does that.
        carries: which windows depend on the windows before them, beside what is the same for every result: `never`,
            `uncalibrated` (those of a camera without calibration) or `always`. With it and `carried`, windows can be
            solved ahead and elsewhere (`workers`).
        carried: what it takes from one window to the next, as a tuple of objects that can be pickled and are replaced,
            never changed; it can be set.

    """

    status_values: Mapping[str, str]
    on_cpu: bool
    adjusted: bool
    carries: str
    carried: tuple[Any, ...]

    @classmethod
    def unavailable_reason(cls, config: Config, at_once: bool) -> str:
        """Return why it cannot run here, empty if it can; asked before it is created.

        With `at_once` it must not need what takes long to get, such as a download.
        """
        ...

    def load(self, progress: Callable[[str], None], download: bool) -> None:
        """Load what takes long; `progress` is called with its state, and what it raises ends the loading.

        Raises:
            ReconstructorUnavailable: it cannot be loaded.

        """
        ...

    def prepare(self, width: int, height: int, progress: Callable[[str], None]) -> None:
        """Prepare for windows of images of this size, before the first one and whenever the size changes."""
        ...

    def needed_bytes(self, count: int, height: int, width: int) -> float:
        """Return the memory that a window of `count` images of this size takes, beside what is held anyway.

        With this and `free_bytes`, windows that do not fit are solved in parts, which are joined (`splitting`).
        """
        ...

    def free_bytes(self) -> float:
        """Return the memory that is available for windows now; infinite if that is not known."""
        ...

    def is_out_of_memory(self, error: Exception) -> bool:
        """Return True if an error that `reconstruct` has raised means that memory ran out; default: MemoryError."""
        ...

    def clear_cache(self) -> None:
        """Free what the next attempt does not need, after memory has run out."""
        ...

    def cancel(self) -> None:
        """End what takes long, from any thread; `close` will follow."""
        ...

    def close(self) -> None:
        """Free memory and devices; the last call."""
        ...
