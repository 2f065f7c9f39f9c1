"""A scene of textured rectangles, rendered with exact depth.

Inverse depth on a plane is an affine function of the pixel, and so are the texture coordinates divided by depth: every
rectangle costs a few additions a pixel. Textures are filtered by a mip map, so that moving images can be matched to a
fraction of a pixel. Surfaces are Lambertian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.synthetic.textures import Image, TextureAtlas

NEAR = 0.05
Float = NDArray[np.float32]


def pinhole(width: int, height: int, fov: float = 65.0) -> Array:
    """Return intrinsics (3, 3) of a camera of `fov` degrees across the width; integer coordinates are pixel centers."""
    focal = width / 2 / np.tan(np.radians(fov) / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


@dataclass(frozen=True, eq=False)
class Face:
    """A textured rectangle, visible from the side from which `right` x `down` points away.

    Attributes:
        corner: world position (3,) of the texture's top left, meters.
        right, down: perpendicular edges (3,) along the texture's width and height.
        texture: RGB uint8 (h, w, 3), stretched over the rectangle.

    """

    corner: Array
    right: Array
    down: Array
    texture: Image


class Scene:
    """Textured rectangles in a world frame (z up, meters)."""

    def __init__(self, faces: Sequence[Face]) -> None:
        """Take the rectangles and pack their textures."""
        self.faces = tuple(faces)
        self._atlas = TextureAtlas([face.texture for face in faces])
        corner, right, down = (np.array([getattr(face, name) for face in faces]).reshape(-1, 3)
                               for name in ("corner", "right", "down"))
        self._corners = np.stack([corner, corner + right, corner + right + down, corner + down], 1)
        normal = np.cross(right, down)
        self._normals = normal / np.linalg.norm(normal, axis=1, keepdims=True)

    def render(self, world_camera: Array, intrinsics: Array, size: tuple[int, int]) -> tuple[Image, Float]:
        """Return the image, RGB uint8 (H, W, 3), and the depth, float32 (H, W), meters along the optical axis.

        Args:
            world_camera: 4x4 pose, optical axes.
            intrinsics: float64 (3, 3); integer coordinates are pixel centers.
            size: width and height.

        Pixels without a surface are black with depth NaN.

        """
        inverse_depth, x, y, texel = self._rasterize(world_camera, intrinsics, size)
        empty = inverse_depth == 0
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.reciprocal(inverse_depth)
            # Texels that a pixel covers: across the slant, and half-way along it, to keep grazing floors sharp.
            tilt = _ray_length(intrinsics, size) * depth * texel[1]
            lod = np.log2(depth * texel[0]) + 0.5 * np.log2(np.maximum(tilt, 1))
        image = self._atlas.sample(x, y, np.where(empty, 0, lod))
        if empty.any():
            image[empty], depth[empty] = 0, np.nan
        return image, depth

    def depth(self, world_camera: Array, intrinsics: Array, size: tuple[int, int]) -> Float:
        """Return the depth alone, as `render` does."""
        inverse_depth = self._rasterize(world_camera, intrinsics, size)[0]
        with np.errstate(divide="ignore"):
            return np.where(inverse_depth == 0, np.float32(np.nan), 1 / inverse_depth)

    def _rasterize(self, world_camera: Array, intrinsics: Array,
                   size: tuple[int, int]) -> tuple[Float, Float, Float, Float]:
        """Return inverse depth and atlas x and y (h, w), and detail (2, h, w).

        The detail is the texels that a pixel covers at depth 1, and the inverse distance of the plane.
        """
        width, height = size
        nearest = np.zeros((height, width), np.float32)
        x, y = np.zeros_like(nearest), np.zeros_like(nearest)
        detail = np.zeros((2, height, width), np.float32)
        rotation, center = world_camera[:3, :3], world_camera[:3, 3]
        to_ray = np.linalg.inv(intrinsics)
        distances = (self._normals * (self._corners[:, 0] - center)).sum(1)
        for row in np.flatnonzero(distances > 1e-6):  # where the face is visible from the camera
            box = _bounds((self._corners[row] - center) @ rotation, intrinsics, size)
            if box is None:
                continue
            face, corner = self.faces[row], self._atlas.corner[row]
            normal, distance = self._normals[row], distances[row]
            left, right, top, bottom = box
            columns, rows = np.arange(left, right, dtype=np.float64), np.arange(top, bottom, dtype=np.float64)[:, None]

            def affine(row: Array, columns: Array = columns, rows: Array = rows) -> Float:
                a, b, c = row @ rotation @ to_ray
                return (a * columns).astype(np.float32) + (b * rows + c).astype(np.float32)

            inverse = affine(normal / distance)
            h, w = face.texture.shape[:2]
            texels = []
            with np.errstate(divide="ignore", invalid="ignore"):
                z = 1 / inverse
                for edge, count in ((face.right, w), (face.down, h)):
                    scaled = count * edge / (edge @ edge)
                    texels.append(affine(scaled) * z + np.float32(scaled @ (center - face.corner)))
                s, t = texels
                window = (slice(top, bottom), slice(left, right))
                seen = (inverse > nearest[window]) & (s >= 0) & (s <= w) & (t >= 0) & (t <= h)
            np.copyto(nearest[window], inverse, where=seen)
            np.copyto(x[window], s + np.float32(corner[0] - 0.5), where=seen)
            np.copyto(y[window], t + np.float32(corner[1] - 0.5), where=seen)
            np.copyto(detail[0][window], np.float32(w / np.linalg.norm(face.right) / intrinsics[0, 0]), where=seen)
            np.copyto(detail[1][window], np.float32(1 / distance), where=seen)
        return nearest, x, y, detail


def _ray_length(intrinsics: Array, size: tuple[int, int]) -> Float:
    """Return the length (h, w) of the rays with z = 1."""
    x = (np.arange(size[0]) - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (np.arange(size[1]) - intrinsics[1, 2]) / intrinsics[1, 1]
    return np.sqrt(1 + x.astype(np.float32)**2 + y.astype(np.float32)[:, None]**2)


def _bounds(corners: Array, intrinsics: Array, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Return the pixels left, right, top, bottom that may see a face with these corners (4, 3) in the camera's frame.

    None if there are none; clips at the near plane.
    """
    in_front = corners[:, 2] > NEAR
    if not in_front.any():
        return None
    points = corners[in_front]
    if not in_front.all():
        following = np.roll(corners, -1, axis=0)
        crossing = in_front != np.roll(in_front, -1)
        first, step = corners[crossing], (following - corners)[crossing]
        points = np.concatenate([points, first + (NEAR - first[:, 2:]) / step[:, 2:] * step])
    pixels = points @ intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    left, top = np.clip(np.floor(pixels.min(0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(pixels.max(0)) + 1, 0, size).astype(int)
    return (left, right, top, bottom) if left < right and top < bottom else None
