"""Pictures of a run: the trajectory from above, and the colored map."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.evaluation.errors import Accuracy, align
from vggt_ros.geometry.poses import Array
from vggt_ros.sequences.sequence import Truth
from vggt_ros.windows.point_cloud import PointCloud

OURS, TRUTH = "#d1495b", "#2e4057"
BACKGROUND = (30, 32, 38)
SUPERSAMPLING = 2


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


def draw_map(path: Path, cloud: PointCloud, map_camera: Array, spacing: float = 0.02,
             size: tuple[int, int] = (1600, 1000)) -> None:
    """Write a picture of the colored map in perspective, with the camera's trajectory; far points are left out.

    Args:
        path: of the PNG file.
        cloud: of the map.
        map_camera: camera poses (n, 4, 4), in the order of time.
        spacing: typical distance of neighboring points, and the size at which they are drawn.
        size: of the picture, width and height.

    """
    width, height = (SUPERSAMPLING * value for value in size)
    picture = np.full((height, width, 3), BACKGROUND, np.uint8)
    centers = map_camera[:, :3, 3]
    camera, points, colors = _viewpoint(cloud, map_camera)
    all_points = np.concatenate([points, centers.astype(np.float32)])
    low, high = np.percentile(all_points, [3, 97], axis=0)
    low, high = np.minimum(low, centers.min(0)), np.maximum(high, centers.max(0))
    center = (low + high) / 2
    inside = all_points[((all_points >= low) & (all_points <= high)).all(1)]
    view = (inside - center) @ camera.T
    focal = 1.1 * width
    # The least distance at which the points fit: |x| <= (z + distance) * width / 2 / focal, and the same for y.
    half_extent = np.array([width, height]) / 2 / focal
    point_distance = np.max(np.abs(view[:, :2]) / half_extent, axis=1) - view[:, 2]
    path_view = (centers - center) @ camera.T
    path_distance = np.max(np.abs(path_view[:, :2]) / half_extent, axis=1) - path_view[:, 2]
    distance = 1.03 * float(max(np.percentile(point_distance, 99), path_distance.max()))

    def project(positions: NDArray[np.floating]) -> NDArray[np.float64]:
        view_points = (positions - center) @ camera.T
        z = view_points[:, 2] + distance
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([focal * view_points[:, 0] / z + width / 2, focal * view_points[:, 1] / z + height / 2, z],
                            axis=1)

    _splat(picture, project(points), colors, 2.2 * focal * spacing)
    pixels = project(centers)
    line = np.rint(pixels[pixels[:, 2] > 0, :2] * 8).astype(np.int32).reshape(-1, 1, 2)
    for color, thickness in (((255, 255, 255), 9), (tuple(int(OURS[i:i + 2], 16) for i in (1, 3, 5)), 5)):
        cv2.polylines(picture, [line], False, color, thickness, cv2.LINE_AA, shift=3)
    smaller = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), cv2.cvtColor(smaller, cv2.COLOR_RGB2BGR))


def _viewpoint(cloud: PointCloud, map_camera: Array) -> tuple[Array, NDArray[np.float32], NDArray[np.uint8]]:
    """Return the rotation `view_map` (3, 3), and the points and colors that are visible from there.

    If the cameras all look in one direction, the view is from behind them; else from above, without the points that are
    above the cameras.
    """
    centers, up = map_camera[:, :3, 3], -map_camera[:, :3, 1].mean(0)
    up = up / np.linalg.norm(up)
    radius = np.linalg.norm(cloud.points - centers.mean(0), axis=1)
    reach = np.linalg.norm(centers - centers.mean(0), axis=1).max()
    visible = radius <= 1.3 * max(float(np.percentile(radius, 90)) if len(radius) else 0.0, reach)
    view_direction = map_camera[:, :3, 2].mean(0)
    if len(radius) and np.linalg.norm(view_direction) > 0.8 and reach < 0.5 * np.median(radius):
        right = np.cross(view_direction, up)
        forward = view_direction / np.linalg.norm(view_direction) + 0.25 * right / np.linalg.norm(right) - 0.2 * up
    else:
        heights, camera_heights = cloud.points @ up, centers @ up
        if len(heights):
            camera_height = max(float(np.median(camera_heights) - np.percentile(heights, 5)), 0.0)
            visible &= heights < np.percentile(camera_heights, 90) + 0.35 * camera_height
        level = _axes(map_camera)[1]
        level = level - (level @ up) * up
        forward = np.cos(np.radians(48)) * level / np.linalg.norm(level) - np.sin(np.radians(48)) * up
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward]), cloud.points[visible], cloud.colors[visible]


def _splat(picture: NDArray[np.uint8], pixels: NDArray[np.float64], colors: NDArray[np.uint8], size: float) -> None:
    """Draw points (n, 3: x, y, depth), the nearest last, as squares of `size / depth` pixels, at least three wide."""
    height, width = picture.shape[:2]
    order = np.argsort(-pixels[:, 2], kind="stable")
    order = order[pixels[order, 2] > 1e-6]
    radius = np.clip(np.rint((size / pixels[order, 2] - 1) / 2), 1, 8).astype(int)
    nearest = np.full(height * width, np.inf, np.float32)
    flat = picture.reshape(-1, 3)
    for reach in range(1, int(radius.max(initial=0)) + 1):
        chosen = order[radius == reach]
        x, y = np.rint(pixels[chosen, :2]).astype(int).T
        for dx in range(-reach, reach + 1):
            for dy in range(-reach, reach + 1):
                inside = (x + dx >= 0) & (x + dx < width) & (y + dy >= 0) & (y + dy < height)
                target = (y[inside] + dy) * width + x[inside] + dx
                depth = pixels[chosen[inside], 2].astype(np.float32)
                np.minimum.at(nearest, target, depth)
                front = depth <= nearest[target]
                flat[target[front]] = colors[chosen[inside][front]]
