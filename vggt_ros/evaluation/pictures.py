"""The picture of a trajectory from above."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggt_ros.evaluation.errors import Accuracy, align
from vggt_ros.evaluation.plane_plot import PlanePlot
from vggt_ros.geometry.poses import Array
from vggt_ros.sequences.sequence import Truth
from vggt_ros.storage.files import write_picture

OURS, TRUTH = (209, 73, 91), (182, 188, 196)


def draw_trajectory(path: Path, stamps: NDArray[np.int64], map_camera: Array, truth: Truth | None = None,
                    accuracy: Accuracy | None = None, title: str = "", unit: str = "map units",
                    with_scale: bool = True) -> None:
    """Write a picture of poses (n, 4, 4) in the plane of the path's principal axes, with the truth if it is known.

    Args:
        path: of the PNG file.
        stamps, map_camera: the trajectory.
        truth: stamps and poses; the trajectory is then aligned to it and the picture is in meters.
        accuracy: figures for the title.
        title: name of the sequence.
        unit: of the trajectory if there is no truth.
        with_scale: align by a similarity, else rigidly.

    """
    ours = map_camera[:, :3, 3]
    how = "as estimated"
    if truth is not None:
        ours = align(stamps, map_camera, *truth, with_scale).apply(ours)
        unit, how = "m", f"aligned by {'Sim(3)' if with_scale else 'SE(3)'}"
    reference = truth[1] if truth is not None else map_camera
    right, up = _axes(reference)
    center = reference[0, :3, 3]
    plane = np.stack([right, up], 1)
    heading = title
    if accuracy is not None:
        heading += (f"\nATE RMSE {accuracy.ate_rmse:.3g} m = {100 * accuracy.ate_rmse / accuracy.path:.2f} % of "
                    f"{accuracy.path:.1f} m, coverage {100 * accuracy.coverage:.0f} %")
    plot = PlanePlot(heading, (f"along the first principal axis of the path [{unit}]",
                               f"along the second principal axis [{unit}]"))
    if truth is not None:
        plot.add((truth[1][:, :3, 3] - center) @ plane, "ground truth", TRUTH, width=7)
    line = (ours - center) @ plane
    plot.add(line, f"vggt_ros ({how}), {len(ours)} poses", OURS, width=2, dots=3)
    plot.add(line[:1], "start", OURS, dots=8, ring=True)
    write_picture(path, plot.draw())


def _axes(world_camera: Array) -> tuple[Array, Array]:
    """Return two unit vectors (3,): the principal plane of the positions of poses (n, 4, 4), seen from above."""
    centers = world_camera[:, :3, 3]
    _, _, principal = np.linalg.svd(centers - centers.mean(0), full_matrices=True)
    right, up = principal[0], principal[1]
    above = -world_camera[:, :3, 1].mean(0)  # the cameras' y axis points down
    if np.cross(right, up) @ above < 0:
        up = -up
    return right, up
