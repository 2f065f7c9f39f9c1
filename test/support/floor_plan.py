"""The exact floor plan of a rendered scene, to compare a grid with."""

import cv2
import numpy as np

_BORDER = 40


def surfaces(scene, low, high):
    """Dense points (n, 2) on all surfaces of a scene between two heights."""
    found = []
    for face in scene.faces:
        steps = [np.linspace(0, 1, 2 + int(np.linalg.norm(edge) / 0.01)) for edge in (face.right, face.down)]
        points = face.corner + steps[0][:, None, None] * face.right + steps[1][None, :, None] * face.down
        points = points.reshape(-1, 3)
        found.append(points[(points[:, 2] > low) & (points[:, 2] < high)][:, :2])
    return np.concatenate(found)


def cells_of(grid, value):
    """Column and row (n, 2) of the cells that have a value."""
    rows, columns = np.nonzero(grid.cells == value)
    return np.column_stack([columns, rows])


def distance_to(points, grid, cells):
    """Distance in meters of `cells` (n, 2), column and row, from the nearest cell with one of `points` (m, 2)."""
    empty = np.full(np.add(grid.cells.shape, 2 * _BORDER), 255, np.uint8)
    point_cells = np.floor((points - grid.origin) / grid.resolution).astype(int) + _BORDER
    inside = (point_cells >= 0).all(1) & (point_cells[:, 0] < empty.shape[1]) & (point_cells[:, 1] < empty.shape[0])
    empty[point_cells[inside, 1], point_cells[inside, 0]] = 0
    distance = cv2.distanceTransform(empty, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * grid.resolution
    return distance[cells[:, 1] + _BORDER, cells[:, 0] + _BORDER]
