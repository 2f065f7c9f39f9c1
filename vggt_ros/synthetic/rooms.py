"""Rooms to move in: walls, floor, ceiling and furniture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from vggt_ros.synthetic.scene import Face, Scene
from vggt_ros.synthetic.textures import draw_posters, material, shade_edges

LIGHT = {"top": 1.0, "bottom": 0.85, "x": 0.8, "y": 0.92}
"""Brightness of surfaces by their direction, so that the sides of a box can be told apart."""


@lru_cache(maxsize=4)  # its textures take more than a second
def room(size: tuple[float, float, float] = (5.0, 4.0, 2.5), seed: int = 0, texel: float = 0.004) -> Scene:
    """Return a furnished room with its origin on the floor in the middle.

    A low table stands in the middle, shelves, boxes and a sofa along the walls; a camera at a height of one meter sees
    across the room. Paths within 0.4 of half the size keep clear of the furniture above half a meter.

    Args:
        size: length along x, width along y, height, meters.
        seed: of the textures and the furniture.
        texel: edge of a texel, meters.

    """
    rng = np.random.default_rng(seed)
    length, width = size[:2]
    faces = _box(rng, texel, (-length / 2, -width / 2, 0), size, ("bricks", "plaster", "planks", "tiles"), inside=True)
    table = 0.16 * min(length, width)
    faces += _box(rng, texel, (-table, -table, 0), (2 * table, 1.6 * table, 0.4), ("planks",))
    faces += _box(rng, texel, (-0.3 * table, -0.4 * table, 0.4), (0.5 * table, 0.4 * table, 0.22), ("fabric",))
    faces += _box(rng, texel, (0.4 * table, -0.1 * table, 0.4), (0.3 * table, 0.5 * table, 0.13), ("tiles",))
    for side in range(4):  # furniture along each wall: x runs along it, y into the room
        wall_length, room_depth = (length, width) if side % 2 == 0 else (width, length)
        wall_rotation = np.array([[1, 0], [0, 1]]) if side == 0 else \
            np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), side)
        x = -wall_length / 2 + 0.15
        while x < wall_length / 2 - 0.45:
            w, d = rng.uniform(0.3, 0.8), rng.uniform(0.15, 0.09 * room_depth)
            w = min(w, wall_length / 2 - 0.15 - x)
            h = rng.choice([0.35, 0.6, 0.9, 1.5])
            ends = np.array([[x, -room_depth / 2], [x + w, -room_depth / 2 + d]]) @ wall_rotation.T
            low, high = ends.min(0), ends.max(0)
            kind = str(rng.choice(["planks", "fabric", "tiles", "plaster", "bricks"]))
            faces += _box(rng, texel, (*low, 0), (*(high - low), h), (kind,))
            x += w + rng.uniform(0.1, 0.6)
    return Scene(faces)


@lru_cache(maxsize=4)
def corridor(length: float = 30.0, width: float = 3.0, height: float = 2.5, seed: int = 0) -> Scene:
    """Return a corridor along x from 0 to `length`, its middle at y = 0, with boxes along both walls."""
    rng = np.random.default_rng(seed)
    texel = 0.008
    faces = _box(rng, texel, (-1, -width / 2, 0), (length + 2, width, height),
                 ("bricks", "plaster", "tiles", "plaster"), inside=True)
    for side in (-1, 1):
        x = 0.5
        while x < length - 1:
            w, d, h = rng.uniform(0.3, 0.9), rng.uniform(0.15, 0.35), rng.uniform(0.3, 1.8)
            y = -width / 2 if side < 0 else width / 2 - d
            faces += _box(rng, texel, (x, y, 0), (w, d, h), (str(rng.choice(["planks", "fabric", "tiles"])),))
            x += w + rng.uniform(0.3, 1.5)
    return Scene(faces)


@lru_cache(maxsize=1)
def cabinet(seed: int = 3) -> Scene:
    """Return a dark cabinet with handles, its origin under it, in an empty room with pictures on its walls.

    Walls and floor are plain: their texture deviates from its mean by a few gray values.
    """
    rng, texel = np.random.default_rng(seed), 0.006
    walls = _box(rng, texel, (-5, -5, 0), (10, 10, 3), ("plaster",) * 4, inside=True)
    faces = [_faded(face, 150, 0.25) for face in walls]
    faces += [_faded(face, 28, 0.12) for face in _box(rng, texel, (-0.6, -0.4, 0), (1.2, 0.8, 1.8), ("planks",))]
    for z in (0.4, 0.9, 1.4):
        for low, size in (((-0.3, -0.44, z), (0.1, 0.04, 0.1)), ((0.2, 0.4, z), (0.1, 0.04, 0.1)),
                          ((-0.64, 0.1, z), (0.04, 0.1, 0.1)), ((0.6, -0.2, z), (0.04, 0.1, 0.1))):
            faces += _box(rng, texel, low, size, ("tiles",))
    return Scene(faces)


def _faded(face: Face, mean: float, contrast: float) -> Face:
    """Return a face of another `mean` gray value, whose texture deviates from it `contrast` times as much."""
    texture = face.texture.astype(np.float32)
    color = texture.mean((0, 1))
    faded = mean * color / color.mean() + contrast * (texture - color)
    return replace(face, texture=np.clip(faded, 0, 255).astype(np.uint8))


def _box(rng: np.random.Generator, texel: float, low: Sequence[float], size: Sequence[float],
         kinds: Sequence[str], inside: bool = False) -> list[Face]:
    """Return the faces of a box; from `inside` it is a room: x walls, y walls, floor and ceiling of four `kinds`."""
    corner, extent = np.array(low, float), np.array(size, float)
    faces = []
    box_color = rng.uniform(0.3, 0.85, 3)
    for axis in range(3):
        for upper in (False, True):
            if not inside and axis == 2 and not upper:
                continue  # boxes stand on the floor
            i, j = [k for k in range(3) if k != axis]  # j is z for walls: right is horizontal, down is -z
            origin, right, down = corner.copy(), np.zeros(3), np.zeros(3)
            origin[axis] += extent[axis] if upper else 0
            origin[j] += extent[j]
            right[i], down[j] = extent[i], -extent[j]
            outward = np.eye(3)[axis] * (1 if upper else -1)
            facing = outward if not inside else -outward
            if np.cross(right, down) @ facing > 0:  # `right x down` must point away from the viewer
                origin[i] += extent[i]
                right = -right
            kind = kinds[min(axis, len(kinds) - 1) if axis < 2 or not upper else -1]
            color = rng.uniform(0.45, 0.85, 3) if inside else box_color
            h, w = (max(round(float(np.linalg.norm(edge)) / texel), 8) for edge in (down, right))
            texture = material(kind, rng, h, w, color * LIGHT[("x", "y", "top" if upper != inside else "bottom")[axis]])
            if inside and axis < 2:
                draw_posters(texture, rng, max(2, round(w * texel / 1.2)))
            faces.append(Face(origin, right, down, shade_edges(texture, int(0.15 / texel)) if inside else texture))
    return faces
