"""benchmark fusion: published schemes to fuse windows and ours, on the same simulated windows, against the truth."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vggt_ros.benchmarks.fusion import trajectories
from vggt_ros.benchmarks.fusion.ours import Fusion
from vggt_ros.benchmarks.fusion.published_schemes import Poses, camera_centers, dense_points, special_linear
from vggt_ros.benchmarks.fusion.reference_schemes import known_loops, rigid
from vggt_ros.benchmarks.fusion.simulated_windows import Errors, SimulatedLoop, SimulatedWindow, WindowSimulator
from vggt_ros.benchmarks.fusion.trajectories import World
from vggt_ros.geometry.poses import Array, mean_rotation, rotation_angle, umeyama

Make = Callable[[int, int], World]
Fuse = Callable[[Sequence[SimulatedWindow], Sequence[SimulatedLoop]], tuple[Poses, list[bool]]]

SCENES: dict[str, tuple[Make, Errors]] = {
    "drive": (trajectories.drive, Errors()),
    "refined": (trajectories.drive, Errors(rotation=0.0013, translation=0.002)),
    "room": (trajectories.room_laps, Errors()),
    "bending": (trajectories.drive, Errors(deformation_rotation=0.02, deformation_scale=0.03)),
    "focal": (trajectories.drive, Errors(focal=0.05)),
    "outliers": (trajectories.drive, Errors(outliers=0.05)),
    "dropped": (trajectories.drive, Errors(dropped=0.05)),
    "straight": (trajectories.straight, Errors()),
    "turn": (trajectories.turn, Errors()),
    "planar": (trajectories.planar, Errors()),
    "partial": (trajectories.partial, Errors()),
}
"""Trajectory and errors of the windows of each scene; `Errors()` has the defaults of values that are not named."""
RECORDED = ("tum_fr1_xyz", "hololens_dvmvs_000", "euroc_mh01_start", "kitti07_first160")
EXACT = {"drive": trajectories.drive, "room": trajectories.room_laps}


@dataclass(frozen=True)
class Score:
    """Errors of one scheme on one set of windows.

    Attributes:
        scene, seed, false, scheme: of the run; `false` is the number of false loops for each true one.
        ate: RMSE of the keyframes' positions after the best similarity, in percent of the path.
        rotation: RMSE of their orientation after the best common rotation, degrees.
        joint: excess rotation at the overlaps: the rotation error between the last keyframes of consecutive windows,
            less that inside the window that has both; the largest of all, degrees. Drift does not count.
        scale: standard deviation of the logarithm of local scale, over stretches of 10 keyframes.
        covered: fraction of the keyframes that have a pose.
        seconds: of the whole fusion.
        taken, offered, taken_false, offered_false: number of true loops accepted and proposed, and of false ones.

    """

    scene: str
    seed: int
    false: float
    scheme: str
    ate: float
    rotation: float
    joint: float
    scale: float
    covered: float
    seconds: float
    taken: int
    offered: int
    taken_false: int
    offered_false: int


def schemes(verification: bool = True) -> dict[str, Fuse]:
    """Return the schemes by name; `told` knows which loops are true."""
    found: dict[str, Fuse] = {"centers": camera_centers, "dense": dense_points, "sl4": special_linear,
                              "ours": lambda windows, loops: Fusion().run(windows, loops)}
    found |= {"rigid": rigid, "told": known_loops}
    if verification:
        found["ours, unverified"] = lambda windows, loops: Fusion(verify=False).run(windows, loops)
    return found


def scenes(folder: Path | None) -> dict[str, tuple[Make, Errors]]:
    """Return all scenes, including those with recorded trajectories in `folder`."""
    found = dict(SCENES)
    for name in RECORDED:
        if folder is not None and (folder / name).is_dir():
            found[name] = (_recorded(folder / name), Errors())
    return found


def run_schemes(names: Sequence[str], seeds: int = 10, windows: int = 40, false: Sequence[float] = (0.0, 1.0, 2.0),
                folder: Path | None = None) -> list[Score]:
    """Run every scheme on every scene with seeds 0, 1, ... and several ratios of false loops.

    Raises:
        KeyError: a scene is not known, or its recording is not in `folder`.

    """
    known = scenes(folder)
    results = []
    runs = [(name, seed) for name in names for seed in range(seeds)]
    for name, seed in tqdm(runs, disable=not sys.stderr.isatty()):
        make, errors = known[name]
        world = make(windows, seed)
        for amount in false:
            rng = np.random.default_rng((seed, 9))
            simulator = WindowSimulator(world, errors, rng)
            simulated = simulator.windows()
            loops = simulator.loops(simulated, amount)
            for scheme, fuse in schemes(verification=amount > 0).items():
                results.append(measure(world, name, seed, amount, scheme, fuse, simulated, loops))
    return results


def run_exact(windows: int = 40) -> list[Score]:
    """Run every scheme on windows that are exact up to their scale: all should equal the truth."""
    results = []
    for name, make in EXACT.items():
        world = make(windows, 0)
        simulator = WindowSimulator(world, Errors.none(), np.random.default_rng(0))
        simulated = simulator.windows()
        loops = simulator.loops(simulated, 0.0)
        results += [measure(world, name, 0, 0.0, scheme, fuse, simulated, loops)
                    for scheme, fuse in schemes(verification=False).items()]
    return results


def measure(world: World, scene: str, seed: int, false: float, scheme: str, fuse: Fuse,
            windows: Sequence[SimulatedWindow], loops: Sequence[SimulatedLoop]) -> Score:
    """Return the errors of a scheme on windows and loops of a world."""
    began = time.perf_counter()
    poses, accepted_loops = fuse(windows, loops)
    seconds = time.perf_counter() - began
    rows = sorted(poses)
    truth, found = world.world_camera[rows], np.array([poses[row] for row in rows])
    world_map = umeyama(found[:, :3, 3], truth[:, :3, 3])
    distances = np.linalg.norm(world_map.apply(found[:, :3, 3]) - truth[:, :3, 3], axis=1)
    # By the orientations: positions on a straight line do not determine the rotation about it.
    rotated = mean_rotation(truth[:, :3, :3] @ np.swapaxes(found[:, :3, :3], 1, 2)) @ found[:, :3, :3]
    cosine = (np.einsum("nij,nij->n", rotated, truth[:, :3, :3]) - 1) / 2
    angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    path = np.linalg.norm(np.diff(world.world_camera[:, :3, 3], axis=0), axis=1).sum()
    stretches = [np.add.reduceat(np.linalg.norm(np.diff(p[:, :3, 3], axis=0), axis=1), np.arange(0, len(rows) - 1, 10))
                 for p in (found, truth)]
    moving = stretches[1] > 1e-3 * path / max(len(stretches[1]), 1)
    true = [loop.true for loop in loops]
    accepted = np.array(accepted_loops, bool)
    return Score(scene, seed, false, scheme, 100 * float(np.sqrt((distances**2).mean()) / path),
                 float(np.sqrt((angles**2).mean())), _joint(world, windows, poses),
                 float(np.std(np.log(stretches[0][moving] / stretches[1][moving]))),
                 len(rows) / len({k for window in windows for k in window.views}), seconds,
                 int((accepted & np.array(true, bool)).sum()), sum(true),
                 int((accepted & ~np.array(true, bool)).sum()), len(true) - sum(true))


def _joint(world: World, windows: Sequence[SimulatedWindow], poses: Poses) -> float:
    """Return the largest excess rotation error at an overlap, degrees.

    The rotation is that between the last keyframes of two consecutive windows, both of which the second one has; its
    error in that window is subtracted. Outliers are left out, because their own rotation is no reference.
    """
    def relative_rotation(one: Array, other: Array) -> Array:
        return np.asarray(one[:3, :3].T @ other[:3, :3])

    worst = 0.0
    for before, after in pairwise(windows):
        ends = max(before.views), max(after.views)
        if after.outlier or not poses.keys() >= {*ends}:
            continue
        truth = relative_rotation(*world.world_camera[list(ends)])
        window_error = rotation_angle(truth.T @ relative_rotation(*(after.views[end].camera for end in ends)))
        worst = max(worst, rotation_angle(truth.T @ relative_rotation(*(poses[end] for end in ends))) - window_error)
    return float(np.degrees(worst))


def _recorded(path: Path) -> Make:
    return lambda windows, seed: trajectories.recorded(path, windows, seed)
