"""The picture of a trajectory from above."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggt_ros.evaluation.errors import Accuracy, align
from vggt_ros.geometry.poses import Array
from vggt_ros.sequences.sequence import Truth

OURS, TRUTH = "#d1495b", "#2e4057"


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ours = map_camera[:, :3, 3]
    how = "as estimated"
    if truth is not None:
        ours = align(stamps, map_camera, *truth, with_scale).apply(ours)
        unit, how = "m", f"aligned by {'Sim(3)' if with_scale else 'SE(3)'}"
    reference = truth[1] if truth is not None else map_camera
    right, up = _axes(reference)
    figure = Figure(figsize=(9, 7.5), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    center = reference[0, :3, 3]
    if truth is not None:
        line = truth[1][:, :3, 3] - center
        plot.plot(line @ right, line @ up, color=TRUTH, linewidth=3.5, alpha=0.35, label="ground truth",
                  solid_capstyle="round")
    line = ours - center
    plot.plot(line @ right, line @ up, color=OURS, linewidth=1.3, marker=".", markersize=3.5,
              label=f"vggt_ros ({how}), {len(ours)} keyframes")
    plot.plot(line[0] @ right, line[0] @ up, "o", color=OURS, markersize=9, markerfacecolor="white", label="start")
    plot.set_aspect("equal", adjustable="datalim")
    plot.margins(0.06)
    plot.grid(color="#dddddd", linewidth=0.6)
    plot.set_axisbelow(True)
    plot.set_xlabel(f"along the first principal axis of the path [{unit}]")
    plot.set_ylabel(f"along the second principal axis [{unit}]")
    for side in ("top", "right"):
        plot.spines[side].set_visible(False)
    heading = title
    if accuracy is not None:
        heading += (f"\nATE RMSE {accuracy.ate_rmse:.3g} m = {100 * accuracy.ate_rmse / accuracy.path:.2f} % of "
                    f"{accuracy.path:.1f} m, coverage {100 * accuracy.coverage:.0f} %")
    plot.set_title(heading, fontsize=12)
    plot.legend(loc="best", framealpha=0.9)
    figure.savefig(path)


def _axes(world_camera: Array) -> tuple[Array, Array]:
    """Return two unit vectors (3,): the principal plane of the positions of poses (n, 4, 4), seen from above."""
    centers = world_camera[:, :3, 3]
    _, _, principal = np.linalg.svd(centers - centers.mean(0), full_matrices=True)
    right, up = principal[0], principal[1]
    above = -world_camera[:, :3, 1].mean(0)  # the cameras' y axis points down
    if np.cross(right, up) @ above < 0:
        up = -up
    return right, up
