"""A mesh of the map: the zero surface of its signed distance function, by surface nets.

Gibson 1998: every cell of eight voxels that the surface passes has one vertex, at the mean of the places where its
edges cross the surface. Every edge that crosses the surface has a quad, which joins the vertices of its four cells.
It needs no tables, works on sparse voxels, and its triangles are better shaped than those of marching cubes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.mapping.dense.volume import OFFSETS, Volume

_MIN_VIEWS = 2
"""Fewest keyframes that have to see a voxel of the mesh."""
_MIN_FACES = 60
"""Smaller pieces that hang in the air are left out."""
_BIAS, _SHIFTS = 2**20, np.array([42, 21, 0])
_AROUND = ((1, 2), (2, 0), (0, 1))
"""The other two axes of each axis, so that the three are right-handed."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles: vertices float32 (n, 3), normals (n, 3), colors RGB uint8 (n, 3), and faces int32 (m, 3).

    The vertices of a face are counter-clockwise, seen from the side of its normal, from where it was seen.
    """

    vertices: NDArray[np.float32]
    normals: NDArray[np.float32]
    colors: NDArray[np.uint8]
    faces: NDArray[np.int32]


def extract(volume: Volume) -> Mesh:
    """Return the mesh of the surface of a volume; without vertices if there is none."""
    block, offset = np.nonzero((volume.count >= _MIN_VIEWS) & (np.abs(volume.distance) < 1)
                               & (volume.color_weight > 0))
    voxels = volume.corners[block] + OFFSETS[offset]
    keys = _keys(voxels)
    order = np.argsort(keys)
    keys, voxels = keys[order], voxels[order]
    distance, color = volume.distance[block, offset][order], volume.color[block, offset][order]
    points, colors, cells, flipped = [], [], [], []
    for axis, (second, third) in enumerate(_AROUND):
        place = np.searchsorted(keys, keys + (1 << int(_SHIFTS[axis])))
        place[place == len(keys)] = 0
        first = np.flatnonzero(keys[place] == keys + (1 << int(_SHIFTS[axis]))) if len(keys) else place
        other = place[first]
        here, there = distance[first], distance[other]
        # A jump by more than half of the range is no surface, but the end of what was seen.
        crossing = ((here < 0) != (there < 0)) & (np.abs(here - there) < 1)
        first, other, here, there = first[crossing], other[crossing], here[crossing], there[crossing]
        part = (here / (here - there))[:, None]
        point = voxels[first].astype(np.float64)
        point[:, axis] += part[:, 0]
        points.append(point)
        colors.append((1 - part) * color[first] + part * color[other])
        corner = voxels[first][:, None].repeat(4, axis=1)
        corner[:, [0, 3], second] -= 1
        corner[:, [0, 1], third] -= 1
        cells.append(_keys(corner.reshape(-1, 3)).reshape(-1, 4))
        flipped.append(here > 0)
    quads = np.concatenate(cells)
    if not len(quads):
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8),
                    np.zeros((0, 3), np.int32))
    vertex = np.unique(quads, return_inverse=True)[1].reshape(-1, 4)
    count = np.bincount(vertex.ravel())[:, None]
    mean = [np.stack([np.bincount(vertex.ravel(), np.repeat(column, 4)) for column in np.concatenate(values).T], 1)
            / count for values in (points, colors)]
    quads = np.where(np.concatenate(flipped)[:, None], vertex[:, ::-1], vertex)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return _finished(mean[0] * volume.voxel, mean[1], faces)


def _finished(vertices: NDArray[np.float64], colors: NDArray[np.float64], faces: NDArray[np.int64]) -> Mesh:
    """Return the mesh without small pieces and unused vertices, with normals."""
    label = _pieces(len(vertices), faces)
    faces = faces[np.bincount(label[faces[:, 0]], minlength=len(vertices))[label[faces[:, 0]]] >= _MIN_FACES]
    kept, flat = np.unique(faces, return_inverse=True)
    faces, vertices = flat.reshape(-1, 3), vertices[kept]
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # as long as twice the area
    sums = np.stack([np.bincount(faces.ravel(), np.repeat(column, 3), len(kept)) for column in normal.T], 1)
    normals = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return Mesh(vertices.astype(np.float32), normals.astype(np.float32),
                np.rint(np.clip(colors[kept], 0, 255)).astype(np.uint8), faces.astype(np.int32))


def _pieces(count: int, faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each of `count` vertices the smallest vertex that it is connected with by faces (m, 3)."""
    label = np.arange(count)
    while True:
        least = label[faces].min(1)
        new = label.copy()
        for corner in range(3):
            np.minimum.at(new, label[faces[:, corner]], least)
        while not np.array_equal(new, new[new]):
            new = new[new]
        new = new[label]
        if np.array_equal(new, label):
            return label
        label = new


def _keys(voxels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one integer per voxel (n, 3), 21 bits per axis."""
    return np.asarray(((voxels + _BIAS) << _SHIFTS).sum(1), np.int64)
