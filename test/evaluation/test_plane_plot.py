"""Plots of paths: where points are drawn, and the grid."""

import numpy as np

from vggt_ros.evaluation.plane_plot import PlanePlot, _round_step

RED, BLUE = (200, 0, 0), (0, 0, 200)


def centers(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Return the center, x and y, of the pixels of a color, below the legend."""
    rows, columns = np.nonzero((picture[250:] == color).all(2))
    return np.array([columns.mean(), rows.mean() + 250])


def test_both_axes_have_one_unit_and_y_points_up() -> None:
    positions = []
    for corner in (np.array([3.0, 0.0]), np.array([0.0, 1.5])):
        plot = PlanePlot("a title\nof two lines", ("x", "y"))
        plot.add(np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 1.5], [0.0, 1.5]]), "frame", BLUE, width=2)
        plot.add(np.array([[0.0, 0.0]]), "origin", RED, dots=6)
        plot.add(corner[None], "corner", (0, 150, 0), dots=6)
        picture = plot.draw()
        positions.append((centers(picture, RED), centers(picture, (0, 150, 0))))
    (origin, right), (again, up) = positions
    np.testing.assert_allclose(origin, again, atol=0.1)
    assert abs(right[1] - origin[1]) < 0.1 and abs(up[0] - origin[0]) < 0.1
    assert right[0] > origin[0] and up[1] < origin[1]
    assert abs((right[0] - origin[0]) / 3 - (origin[1] - up[1]) / 1.5) < 0.2


def test_a_path_that_does_not_move_is_drawn() -> None:
    plot = PlanePlot("still", ("x", "y"))
    plot.add(np.full((5, 2), 7.25), "still", RED, width=2, dots=4)
    assert (plot.draw() == RED).all(2).any()


def test_lines_of_the_grid_are_at_round_values() -> None:
    assert [_round_step(value) for value in (0.11, 0.2, 0.3, 0.7, 1.0, 23.0)] == [0.2, 0.2, 0.5, 1.0, 1.0, 50.0]
