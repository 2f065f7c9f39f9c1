"""The `Reconstructor` protocol, and the `WindowGeometry` that it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera
from vggt_ros.windows.keyframe import Window


class ReconstructionRefused(Exception):
    """A window cannot be solved (no parallax, too few matches, an ambiguous solution); the text gives the reason."""


class ReconstructorLost(Exception):
    """A reconstructor cannot go on: its process has ended, or the context of its GPU is lost; create another one."""


@dataclass(frozen=True, eq=False)
class WindowGeometry:
    """The geometry of one window, in the optical frame of its first camera and with an arbitrary scale.

    It has `S` keyframes, usually all of the window; keyframes that could not be registered are left out.

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
        step_covariance: how uncertain each keyframe's pose is in the frame of the one before it, float64 (S - 1, 6, 6),
            of perturbations on the right, [rotation, translation], radians and units of the window; None if not known.
        uncertainty: how many times more uncertain than usual the poses are, where `step_covariance` is not known.
        notes: what the user should know of this window, such as why it is less certain than usual.

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

    Its poses are taken to be a network's, which `refine: auto` adjusts to the images, unless it has an attribute
    `adjusted` that is True.
    """

    name: str

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height) to which images of this camera must be rectified."""
        ...

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window.

        Raises:
            ReconstructionRefused: the window cannot be solved; the text gives the reason.
            ReconstructorLost: this reconstructor cannot solve any window any more.

        """
        ...
