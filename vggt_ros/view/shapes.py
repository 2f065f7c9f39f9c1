"""Shapes that the view draws, as arrays: frusta of cameras, sizes that fit the map, colors of submaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.mapping.grid.occupancy_grid import UNKNOWN, Grid
from vggt_ros.windows.solution import Solution

FRUSTUM_BLOCK = 64
"""Number of keyframes that are drawn as one entity."""
_SAMPLES = 200
"""Points by which their spacing is found."""
_CORNERS = np.array([[-0.8, -0.6, 1.0], [0.8, -0.6, 1.0], [0.8, 0.6, 1.0], [-0.8, 0.6, 1.0]])
_STRIP = np.concatenate([_CORNERS, _CORNERS[:1], np.zeros((1, 3)), _CORNERS[1:2], _CORNERS[2:3], np.zeros((1, 3)),
                         _CORNERS[3:]])
"""One line along all edges of a frustum of depth 1, in the camera's frame (10, 3)."""


def frusta(map_camera: Array, size: float) -> NDArray[np.float32]:
    """Return lines (n, 10, 3) along the edges of the frusta of cameras (n, 4, 4), `size` deep."""
    strip = size * _STRIP
    return np.asarray(strip @ map_camera[:, :3, :3].transpose(0, 2, 1) + map_camera[:, None, :3, 3], np.float32)


def frustum_size(map_camera: Array) -> float:
    """Return a size for frusta of keyframes (n, 4, 4): their median distance, as a power of two.

    A power of two seldom changes while the map grows.
    """
    steps = np.linalg.norm(np.diff(map_camera[:, :3, 3], axis=0), axis=1)
    median = float(np.median(steps)) if len(steps) else 0.0
    return float(2.0 ** np.round(np.log2(median))) if median > 1e-9 else 0.05


def point_spacing(points: NDArray[np.float32]) -> float:
    """Return the median distance from a point (n, 3) to its nearest neighbor, by some of the points."""
    rows = np.arange(0, len(points), max(1, len(points) // _SAMPLES))
    chosen = points[rows].astype(np.float64)
    center = points.mean(0, dtype=np.float64)
    ours, others = chosen - center, points - center
    squares = (ours**2).sum(1)[:, None] + (others**2).sum(1) - 2 * ours @ others.T
    squares[np.arange(len(rows)), rows] = np.inf
    return float(np.sqrt(np.median(np.maximum(squares.min(1), 0)))) if len(points) > 1 else 0.0


def grid_quads(grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int8]]:
    """Return the known cells of a grid as quads at z = 0, one for a run of equal cells in a row.

    These are vertices (4q, 3), triangles (2q, 3) of indices of vertices, and the value of the cells of each quad (q,).
    """
    padded = np.pad(grid.cells, 1, constant_values=UNKNOWN)
    inner = padded[1:-1, 1:-1]
    known = inner != UNKNOWN
    rows, first = np.nonzero(known & (inner != padded[1:-1, :-2]))
    _, last = np.nonzero(known & (inner != padded[1:-1, 2:]))
    left, right, low, high = first, last + 1, rows, rows + 1
    corners = np.stack([np.stack([left, low], -1), np.stack([right, low], -1), np.stack([right, high], -1),
                        np.stack([left, high], -1)], axis=1).reshape(-1, 2)
    vertices = np.zeros((len(corners), 3), np.float32)
    vertices[:, :2] = corners * grid.resolution + grid.origin
    triangles = 4 * np.arange(len(rows))[:, None, None] + np.array([[0, 1, 2], [0, 2, 3]])
    return vertices, triangles.reshape(-1, 3), grid.cells[rows, first]


def submap_color(submap: int) -> tuple[float, float, float]:
    """Return a color for a submap, RGB in [0, 1]: hues in golden-angle steps."""
    phase = 2 * np.pi * (0.33 + 0.381966 * submap) + np.array([0.0, -2.0, 2.0]) * np.pi / 3
    red, green, blue = (0.5 + 0.5 * np.cos(phase)).tolist()
    return red, green, blue


def graph_lines(solution: Solution, map_world: Array) -> tuple[Array, dict[str, Array]]:
    """Return what is drawn of the pose graph, in the frame of `map_world`, the 4x4 pose of the solution's world.

    These are the windows' origins (w, 3), and the lines that join two of them, (m, 2, 3) by kind: `overlap`, accepted
    `loop`, and `refused`, which was rejected by verification or by the pose graph.
    """
    origins = solution.window_origin @ map_world[:3, :3].T + map_world[:3, 3]
    rows = {int(window): row for row, window in enumerate(solution.window_ids)}
    pairs = [(edge.kind, edge.first, edge.second) for edge in solution.edges]
    pairs += [("refused", first, second) for first, second in solution.refused_loops]
    lines: dict[str, list[list[int]]] = {kind: [] for kind in ("overlap", "loop", "refused")}
    for kind, first, second in pairs:
        if kind in lines and first in rows and second in rows:
            lines[kind].append([rows[first], rows[second]])
    return origins, {kind: origins[np.array(ends, np.int64).reshape(-1, 2)] for kind, ends in lines.items()}
