"""benchmark fusion: published ways to fuse windows and ours, on the same made windows, against the truth."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vggt_ros.benchmarks import trajectories
from vggt_ros.benchmarks.ours import Fusion
from vggt_ros.benchmarks.published_schemes import Poses, camera_centers, dense_points, special_linear
from vggt_ros.benchmarks.reference_schemes import known_loops, rigid
from vggt_ros.benchmarks.simulated_windows import Errors, Network, SimulatedLoop, SimulatedWindow
from vggt_ros.benchmarks.trajectories import World
from vggt_ros.geometry.poses import Array, mean_rotation, rotation_angle, umeyama

Make = Callable[[int, int], World]
Fuse = Callable[[Sequence[SimulatedWindow], Sequence[SimulatedLoop]], tuple[Poses, list[bool]]]

SCENES: dict[str, tuple[Make, Errors]] = {
    "drive": (trajectories.drive, Errors()),
    "room": (trajectories.house, Errors()),
    "bending": (trajectories.drive, Errors(bend_rotation=0.02, bend_scale=0.03)),
    "focal": (trajectories.drive, Errors(focal=0.05)),
    "outliers": (trajectories.drive, Errors(outliers=0.05)),
    "dropped": (trajectories.drive, Errors(dropped=0.05)),
    "straight": (trajectories.straight, Errors()),
    "turn": (trajectories.turn, Errors()),
    "planar": (trajectories.planar, Errors()),
    "partial": (trajectories.partial, Errors()),
}
"""Where the camera goes, and what is wrong with the windows; `Errors()` has the values that it does not name."""
RECORDED = ("tum_fr1_xyz", "hololens_dvmvs_000", "euroc_mh01_start", "kitti07_first160")
EXACT = {"drive": trajectories.drive, "room": trajectories.house}


@dataclass(frozen=True)
class Score:
    """One scheme on one set of windows.

    Attributes:
        scene, seed, false, scheme: of the run; `false` loops for a true one.
        ate: RMSE of the keyframes' positions after the best similarity, in percent of the way.
        rotation: RMSE of their orientation after the best rotation of all, degrees.
        joint: how much more the last keyframes of two windows in a row are turned against each other than in the window
            that has both, where that is the most; degrees. Drift is the windows' own, this is not.
        scale: standard deviation of the logarithm of local scale, over stretches of 10 keyframes.
        covered: fraction of the keyframes that have a pose.
        seconds: of the whole fusion.
        taken, offered, taken_false, offered_false: loops.

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
    """Return the schemes by name."""
    found: dict[str, Fuse] = {"centers": camera_centers, "dense": dense_points, "sl4": special_linear,
                              "ours": lambda windows, loops: Fusion().run(windows, loops)}
    found |= {"rigid": rigid, "told": known_loops}
    if verification:
        found["ours, unverified"] = lambda windows, loops: Fusion(verify=False).run(windows, loops)
    return found


def scenes(folder: Path | None) -> dict[str, tuple[Make, Errors]]:
    """Return all scenes; with those of recorded ways that lie in `folder`."""
    found = dict(SCENES)
    for name in RECORDED:
        if folder is not None and (folder / name).is_dir():
            found[name] = (_recorded(folder / name), Errors())
    return found


def fusion(names: Sequence[str], seeds: int = 10, windows: int = 40, false: Sequence[float] = (0.0, 1.0, 2.0),
           folder: Path | None = None) -> list[Score]:
    """Run every scheme on every scene with seeds 0, 1, ... and several amounts of false loops.

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
            network = Network(world, errors, rng)
            made = network.windows()
            loops = network.loops(made, amount)
            for scheme, fuse in schemes(verification=amount > 0).items():
                results.append(measure(world, name, seed, amount, scheme, fuse, made, loops))
    return results


def exact(windows: int = 40) -> list[Score]:
    """Run every scheme on windows that are exact but for their units: all should be at the truth."""
    results = []
    for name, make in EXACT.items():
        world = make(windows, 0)
        network = Network(world, Errors.none(), np.random.default_rng(0))
        made = network.windows()
        loops = network.loops(made, 0.0)
        results += [measure(world, name, 0, 0.0, scheme, fuse, made, loops)
                    for scheme, fuse in schemes(verification=False).items()]
    return results


def measure(world: World, scene: str, seed: int, false: float, scheme: str, fuse: Fuse,
            windows: Sequence[SimulatedWindow], loops: Sequence[SimulatedLoop]) -> Score:
    """Return how well a scheme does on windows and loops of a world."""
    began = time.perf_counter()
    poses, taken = fuse(windows, loops)
    seconds = time.perf_counter() - began
    rows = sorted(poses)
    truth, found = world.world_camera[rows], np.array([poses[row] for row in rows])
    move = umeyama(found[:, :3, 3], truth[:, :3, 3])
    gaps = np.linalg.norm(move.apply(found[:, :3, 3]) - truth[:, :3, 3], axis=1)
    # Not that of the positions: on a straight line they leave it open.
    turned = mean_rotation(truth[:, :3, :3] @ np.swapaxes(found[:, :3, :3], 1, 2)) @ found[:, :3, :3]
    cosine = (np.einsum("nij,nij->n", turned, truth[:, :3, :3]) - 1) / 2
    turns = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    path = np.linalg.norm(np.diff(world.world_camera[:, :3, 3], axis=0), axis=1).sum()
    ways = [np.add.reduceat(np.linalg.norm(np.diff(p[:, :3, 3], axis=0), axis=1), np.arange(0, len(rows) - 1, 10))
            for p in (found, truth)]
    moved = ways[1] > 1e-3 * path / max(len(ways[1]), 1)
    true = [loop.true for loop in loops]
    believed = np.array(taken, bool)
    return Score(scene, seed, false, scheme, 100 * float(np.sqrt((gaps**2).mean()) / path),
                 float(np.sqrt((turns**2).mean())), _joint(world, windows, poses),
                 float(np.std(np.log(ways[0][moved] / ways[1][moved]))),
                 len(rows) / len({k for window in windows for k in window.views}), seconds,
                 int((believed & np.array(true, bool)).sum()), sum(true),
                 int((believed & ~np.array(true, bool)).sum()), len(true) - sum(true))


def _joint(world: World, windows: Sequence[SimulatedWindow], poses: Poses) -> float:
    """Return how much more two windows in a row are turned against each other than in themselves, at most, degrees.

    Turned are their last keyframes, both of which the second window has; outliers are left out, because what they say
    themselves is nothing to compare with.
    """
    def turn(one: Array, other: Array) -> Array:
        return np.asarray(one[:3, :3].T @ other[:3, :3])

    worst = 0.0
    for before, after in pairwise(windows):
        ends = max(before.views), max(after.views)
        if after.outlier or not poses.keys() >= {*ends}:
            continue
        truth = turn(*world.world_camera[list(ends)])
        own = rotation_angle(truth.T @ turn(*(after.views[end].camera for end in ends)))
        worst = max(worst, rotation_angle(truth.T @ turn(*(poses[end] for end in ends))) - own)
    return float(np.degrees(worst))


def _recorded(path: Path) -> Make:
    return lambda windows, seed: trajectories.recorded(path, windows, seed)
