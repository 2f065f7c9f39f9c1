"""benchmark recorded: windows of recorded outputs of VGGT-1B fused as the node fuses them, against COLMAP."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vggt_ros.benchmarks.accuracy.epipolar import epipolar_errors
from vggt_ros.benchmarks.accuracy.recorded import (
    RecordedReconstructor,
    RecordingError,
    SeenImage,
    common_content,
    content,
    keyframes,
    load_runs,
    read_images,
    read_intrinsics,
    read_reference,
    walk,
)
from vggt_ros.config import Config
from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.reconstruction.refined import RefinedReconstructor
from vggt_ros.reconstruction.vggt.comparison.recorded_run import RecordedRun, pose_errors
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.slam import Slam
from vggt_ros.windows.keyframe import overlapping_windows


@dataclass(frozen=True)
class Result:
    """One way to use the runs.

    Attributes:
        name: of it.
        windows, placed: windows, and those that the map took; images, solved: images, and those with a pose.
        centers: RMSE of the camera centers after the best similarity, percent of the extent, which is the largest
            distance of a center from their mean.
        rotation: median error of the relative rotation of all pairs of images, degrees.
        worst_rotation: the largest.

    """

    name: str
    windows: int
    placed: int
    images: int
    solved: int
    centers: float
    rotation: float
    worst_rotation: float


def compare(camera_world: dict[str, Array], reference: dict[str, Array]) -> tuple[float, float, float]:
    """Return `centers`, `rotation` and `worst_rotation` as in `Result`."""
    names = [name for name in camera_world if name in reference]
    both = (np.array([poses[name] for name in names]) for poses in (camera_world, reference))
    angles, gaps, centers = pose_errors(*both)
    extent = np.linalg.norm(centers - centers.mean(0), axis=1).max()
    return 100 * float(np.sqrt((gaps**2).mean()) / extent), float(np.median(angles)), float(angles.max())


def fused_poses(runs: list[RecordedRun], images: dict[str, SeenImage], refine: bool, config: Config,
                name: str = "") -> tuple[dict[str, Array], int, int]:
    """Return the poses `camera_map` of images by windows in their order, and how many windows there were and placed.

    The windows are cut from the runs in turn; `name` is shown while it runs.
    """
    order = list(images)
    part = common_content(image.size for image in images.values())
    views = keyframes(images.values(), part)
    reconstructor: Reconstructor = RecordedReconstructor(runs, dict(enumerate(order)), part, config.of(VggtConfig))
    slam = Slam(config, RefinedReconstructor(reconstructor) if refine else reconstructor)
    windows = overlapping_windows(views, config.windows.size, config.windows.overlap)
    placed = 0
    for window in tqdm(windows, desc=name, disable=not sys.stderr.isatty()):
        update = slam.step(window)
        placed += not update.refused and not (update.new_submap and window.id)
    solution = slam.solution
    rows = np.flatnonzero(solution.submaps == solution.largest_submap)
    return {order[int(solution.ids[row])]: inverse(solution.map_camera[row]) for row in rows}, len(windows), placed


def recorded(folder: Path, at_most: tuple[float, float] | None = None, config: Config | None = None
             ) -> tuple[dict[str, Any], bool]:
    """Print the table of a folder of recorded runs; return all figures, and whether the last row is within `at_most`.

    Args:
        folder: with `images/`, `run_*.npz` and `colmap.txt`.
        at_most: of the refined, fused windows cut from all runs in turn: centers in percent, rotation in degrees.
        config: settings; the map keeps smaller depth maps, since depth is known at few pixels.

    Raises:
        RecordingError: a file is missing or cannot be read.

    """
    config = config or Config().replace({"map.kept_width": 100})
    runs = load_runs(folder)
    if not (folder / "colmap.txt").exists():
        raise RecordingError(f"{folder}: expected colmap.txt in it, poses to compare with")
    reference = read_reference(folder / "colmap.txt")
    order = [name for name in walk(reference) if all(name in run.names for run in runs.values())]
    images = read_images(folder, order)
    print(f"{'':<32} {'windows':>8} {'images':>8} {'centers':>8} {'rotation':>9} {'worst':>7}\n{'':<32} {'placed':>8} "
          f"{'solved':>8} {'%':>8} {'deg':>9} {'deg':>7}", flush=True)
    results = []

    def note(result: Result) -> None:
        results.append(result)
        print(f"{result.name:<32} {f'{result.placed}/{result.windows}':>8} {f'{result.solved}/{result.images}':>8} "
              f"{result.centers:>8.3f} {result.rotation:>9.3f} {result.worst_rotation:>7.3f}", flush=True)

    for name, run in runs.items():
        whole = np.tile(np.eye(4), (len(run.names), 1, 1))
        whole[:, :3] = run.extrinsic
        poses = dict(zip(run.names, whole, strict=True))
        note(Result(f"{name}, one inference", 1, 1, len(order), len(order), *compare(poses, reference)))
    sets = {"reference": reference}
    groups = [[name] for name in runs] + ([list(runs)] if len(runs) > 1 else [])
    for refine in (False, True):
        for group in groups:
            label = f"{' and '.join(group)}{' in turn' if len(group) > 1 else ''}{', refined' if refine else ''}"
            poses, windows, placed = fused_poses([runs[name] for name in group], images, refine, config, label)
            note(Result(label, windows, placed, len(images), len(poses), *compare(poses, reference)))
            sets[label] = poses
    shown = {name: image.crop(content(*image.size)) for name, image in images.items()}
    epipolar, matches = epipolar_errors(shown, read_intrinsics(folder / "colmap.txt"), sets)
    print(f"{matches} matches of SIFT features, median distance from their epipolar lines, pixels of the images:")
    for label, error in epipolar.items():
        print(f"{label:<32} {error:>8.3f}")
    last = results[-1]
    good = last.placed == last.windows
    if at_most is not None:
        good = good and last.centers <= at_most[0] and last.rotation <= at_most[1]
    bound = "" if at_most is None else f" of at most {at_most[0]:g} % and {at_most[1]:g} deg"
    print(f"{'within' if good else 'NOT within'} the bound{bound}: {last.placed} of {last.windows} windows placed, "
          f"{last.centers:.3f} %, {last.rotation:.3f} deg")
    return {"rows": [vars(result) for result in results], "epipolar_px": epipolar, "within": good}, good
