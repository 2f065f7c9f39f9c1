"""Comparison of occupancy grids: shares of cells, at any origin; which axis of a world is up."""

import numpy as np
import pytest

from vggt_ros.benchmarks.accuracy.grids import _upright, compare
from vggt_ros.mapping.grid.occupancy_grid import FREE, OCCUPIED, UNKNOWN, Grid

TRUE = np.full((20, 30), FREE, np.int8)
TRUE[10], TRUE[:, 25:] = OCCUPIED, UNKNOWN


def test_shares_of_cells_with_another_origin():
    """A row of the wall is missing, half of the other one is a cell beside, and one cell of it is said free."""
    found = np.full((40, 50), UNKNOWN, np.int8)
    inner = found[8:28, 6:36]
    inner[:] = FREE
    inner[10, 1:10] = OCCUPIED
    inner[11, 10:25] = OCCUPIED
    inner[10, 10:25] = UNKNOWN
    figures = compare(Grid(found, np.array([1.0, 2.0]) - np.array([6, 8]) * 0.05, 0.05),
                      Grid(TRUE, np.array([1.0, 2.0]), 0.05))
    assert figures["occupied_found"] == pytest.approx(9 / 25)
    assert figures["occupied_near"] == 1
    free = 19 * 25 - 15
    assert figures["free_right"] == pytest.approx(free / (free + 1))
    assert figures["free_found"] == pytest.approx(free / (19 * 25)) and figures["true_cells"] == 20 * 25


def test_grids_apart_have_nothing_in_common():
    figures = compare(Grid(TRUE, np.array([100.0, 100.0]), 0.05), Grid(TRUE, np.zeros(2), 0.05))
    assert np.isnan(figures["free_right"]) and figures["occupied_found"] == figures["free_found"] == 0


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_axis_that_is_up_in_the_images_becomes_z(axis, sign):
    up = np.zeros(3)
    up[axis] = sign
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, :3, 1] = -up + np.random.default_rng(0).normal(0, 0.1, (4, 3))
    rotation = _upright(poses)
    assert np.allclose(rotation @ up, (0, 0, 1)) and np.linalg.det(rotation) == pytest.approx(1)
    assert np.allclose(rotation @ rotation.T, np.eye(3))
