"""The Reconstructor protocol and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera
from vggt_ros.windows.keyframe import Window


class ReconstructionRefused(Exception):
    """A window cannot be solved (no parallax, too few matches, an ambiguous solution); the text says why."""


@dataclass(frozen=True, eq=False)
class WindowGeometry:
    """The geometry of one window, in units and a world of its own: the first camera's optical frame.

    `S` keyframes, usually all of the window's; those that could not be placed are left out.

    Attributes:
        keyframe_ids: ids of the S keyframes.
        window_camera: camera poses, float64 (S, 4, 4), `window_camera[i] @ p_camera = p_window`; optical axes
            (x right, y down, z forward); the first is exactly the identity.
        intrinsics: float64 (S, 3, 3) for the depth's size (h, w); integer coordinates are pixel centers.
        depth: z along the optical axis, float32 (S, h, w), NaN where unknown; h, w have the images' aspect.
        confidence: rank in [0, 1], float32 (S, h, w), 0 where depth is unknown, 1 the best of the window.
        descriptors: one unit vector a keyframe for place recognition, float32 (S, D), or None.
        metric: True if the unit is the meter.
        report: figures of this solve for status and benchmarks (names with units, e.g. `residual_px`).

    """

    keyframe_ids: tuple[int, ...]
    window_camera: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    descriptors: NDArray[np.float32] | None = None
    metric: bool = False
    report: dict[str, float] = field(default_factory=dict)

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
    """Turns the images of a window into its geometry."""

    name: str

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the images that it wants from this camera."""
        ...

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window.

        Raises:
            ReconstructionRefused: the window cannot be solved; the reason is in the text.

        """
        ...
