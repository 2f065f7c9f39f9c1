"""A camera's pose refined by the colors of keyframes: their textured pixels, moved by their depth, must look the same.

Binary features are a pixel or two from where they should be; thousands of textured pixels together are far better,
once the pose is good to a few pixels. Colors are compared by their detail, which changes of light leave as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import pixel_rays, resize_intrinsics
from vggt_ros.geometry.pnp import projection_jacobian
from vggt_ros.geometry.poses import Array, orthonormalize, so3_exp
from vggt_ros.windows.solution import MapKeyframe, Solution

_PIXELS = 1500
"""Textured pixels of a keyframe that take part."""
_ITERATIONS = 10
_SETTLED = 1e-5
"""Step (radians, map units) below which nothing is gained any more."""
_ENOUGH = 200
"""Pixels below which there is nothing to refine a pose by."""
_DEPTH_JUMP = 1.1
"""Ratio of the largest to the smallest depth around a pixel beyond which it is not used."""


@dataclass(frozen=True, eq=False)
class Photometric:
    """How an image looks at the size that keyframes are kept in: its detail (h, w) and the pinhole matrix for it."""

    detail: NDArray[np.float32]
    intrinsics: Array

    @staticmethod
    def of(gray: NDArray[np.uint8], intrinsics: Array, width: int) -> Photometric:
        """Return how `gray` (H, W) looks at `width` pixels."""
        size = (width, round(gray.shape[0] * width / gray.shape[1]))
        small = np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)
        return Photometric(detail(small), resize_intrinsics(intrinsics, width / gray.shape[1], size[1] / gray.shape[0]))

    def project(self, points: Array, map_camera: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return points (n, 3) in the camera's frame, their pixels (n, 2), and which are inside the image (n,)."""
        local = (points - map_camera[:3, 3]) @ map_camera[:3, :3]
        depth = np.maximum(local[:, 2], 1e-6)
        pixels = local[:, :2] / depth[:, None] * self.intrinsics[[0, 1], [0, 1]] + self.intrinsics[:2, 2]
        height, width = self.detail.shape
        inside = (local[:, 2] > 1e-3) & (pixels > 1).all(1) & (pixels[:, 0] < width - 2) & (pixels[:, 1] < height - 2)
        return local, pixels, inside

    def likeness(self, points: Array, values: NDArray[np.float32], map_camera: Array) -> float:
        """Return the correlation in [-1, 1] of `values` (n,) with the image's detail where it sees `points` (n, 3).

        0 if it sees less than a fifth of them.
        """
        _, pixels, inside = self.project(points, map_camera)
        if inside.sum() < 0.2 * len(points) or not inside.any():
            return 0.0
        here, there = _sample(self.detail, pixels[inside]), values[inside]
        return float((here * there).sum() / max(np.sqrt((here**2).sum() * (there**2).sum()), 1e-6))

    def refine(self, points: Array, values: NDArray[np.float32], map_camera: Array) -> Array:
        """Return the pose 4x4 near `map_camera` at which `values` (n,) of `points` (n, 3) look most like the image.

        Robust Gauss-Newton (Engel et al., Direct Sparse Odometry, PAMI 2018, has the idea; one camera is free here).
        """
        slopes = cv2.Sobel(self.detail, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(self.detail, cv2.CV_32F, 0, 1,
                                                                                  scale=1 / 8)
        pose = map_camera.copy()
        for _ in range(_ITERATIONS):
            local, pixels, inside = self.project(points, pose)
            if inside.sum() < _ENOUGH:
                return map_camera
            local, pixels = local[inside], pixels[inside]
            residual = _sample(self.detail, pixels) - values[inside]
            gradient = np.stack([_sample(slope, pixels) for slope in slopes], axis=1)
            jacobian = np.einsum("ni,nij->nj", gradient, projection_jacobian(local, self.intrinsics))
            sigma = max(1.4826 * float(np.median(np.abs(residual))), 1.0)
            weight = 1 / (1 + (residual / (2 * sigma)) ** 2) ** 2
            information = (jacobian * weight[:, None]).T @ jacobian + 1e-6 * np.eye(6)
            step = -np.linalg.solve(information, jacobian.T @ (weight * residual))
            pose[:3, 3] += pose[:3, :3] @ step[3:]
            pose[:3, :3] = pose[:3, :3] @ so3_exp(step[:3])
            if np.abs(step).max() < _SETTLED:
                break
        pose[:3, :3] = orthonormalize(pose[:3, :3])
        return pose


def textured_points(solution: Solution, row: int) -> tuple[Array, NDArray[np.float32]]:
    """Return the map points (n, 3) of a keyframe's most textured pixels with known depth, and their detail (n,)."""
    map_camera = solution.map_camera[row]
    local, values = _textured(solution.keyframes[int(solution.ids[row])])
    return solution.scale[row] * local @ map_camera[:3, :3].T + map_camera[:3, 3], values


@lru_cache(maxsize=64)
def _textured(kept: MapKeyframe) -> tuple[Array, NDArray[np.float32]]:
    """Return the points in the camera's frame and the window's units; images in succession ask for the same ones."""
    look = detail(np.asarray(cv2.cvtColor(kept.color, cv2.COLOR_RGB2GRAY), np.uint8))
    depth = np.nan_to_num(kept.depth.astype(np.float32), nan=0.0)
    around = np.ones((3, 3), np.uint8)
    smooth = cv2.dilate(depth, around) < _DEPTH_JUMP * cv2.erode(depth, around)
    slope = np.abs(cv2.Sobel(look, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(look, cv2.CV_32F, 0, 1))
    candidates = np.flatnonzero(smooth & (depth > 0))
    if len(candidates) > _PIXELS:
        candidates = candidates[np.argpartition(-slope.ravel()[candidates], _PIXELS)[:_PIXELS]]
    rows, columns = np.unravel_index(candidates, depth.shape)
    rays = pixel_rays(kept.intrinsics, columns, rows)
    return rays * depth[rows, columns].astype(np.float64)[:, None], look[rows, columns]


def detail(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return `gray` (h, w) without its slow changes, which light makes, and without its finest, which noise makes."""
    values = gray.astype(np.float32)
    band = cv2.GaussianBlur(values, (0, 0), 1.0) - cv2.GaussianBlur(values, (0, 0), 6.0)
    return np.asarray(np.clip(band, -40, 40), np.float32)


def _sample(image: NDArray[np.float32], pixels: Array) -> NDArray[np.float32]:
    """Return the values (n,) of `image` at `pixels` (n, 2), bilinear."""
    at = np.ascontiguousarray(pixels.T[:, :, None], np.float32)
    return np.asarray(cv2.remap(image, at[0], at[1], cv2.INTER_LINEAR).ravel(), np.float32)
