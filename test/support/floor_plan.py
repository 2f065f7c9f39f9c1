"""The exact floor plan of a rendered scene, to hold a grid against."""

import cv2
import numpy as np

_BORDER = 40


def surfaces(scene, low, high):
    """Points (n, 2), dense, of all surfaces of a scene between two heights."""
    found = []
    for face in scene.faces:
        steps = [np.linspace(0, 1, 2 + int(np.linalg.norm(edge) / 0.01)) for edge in (face.right, face.down)]
        points = face.corner + steps[0][:, None, None] * face.right + steps[1][None, :, None] * face.down
        points = points.reshape(-1, 3)
        found.append(points[(points[:, 2] > low) & (points[:, 2] < high)][:, :2])
    return np.concatenate(found)


def cells_of(grid, value):
    """Column and row (n, 2) of the cells of a value."""
    rows, columns = np.nonzero(grid.cells == value)
    return np.column_stack([columns, rows])


def distance_to(points, grid, cells):
    """Distance in meters of the centers of `cells` (n, 2), column and row, from the nearest of `points` (m, 2)."""
    truth = np.full(np.add(grid.cells.shape, 2 * _BORDER), 255, np.uint8)
    where = np.floor((points - grid.origin) / grid.resolution).astype(int) + _BORDER
    inside = (where >= 0).all(1) & (where[:, 0] < truth.shape[1]) & (where[:, 1] < truth.shape[0])
    truth[where[inside, 1], where[inside, 0]] = 0
    away = cv2.distanceTransform(truth, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * grid.resolution
    return away[cells[:, 1] + _BORDER, cells[:, 0] + _BORDER]
