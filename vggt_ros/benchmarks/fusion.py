"""benchmark fusion: published ways to fuse windows and ours, on the same made windows, against the truth."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vggt_ros.benchmarks import worlds
from vggt_ros.benchmarks.fabricate import Errors, FakeLoop, FakeWindow, Network
from vggt_ros.benchmarks.ours import Fusion
from vggt_ros.benchmarks.reference import rigid, told
from vggt_ros.benchmarks.rivals import Poses, camera_centers, dense_points, special_linear
from vggt_ros.benchmarks.worlds import World
from vggt_ros.geometry.poses import Array, mean_rotation, rotation_angle, umeyama

Make = Callable[[int, int], World]
Fuse = Callable[[Sequence[FakeWindow], Sequence[FakeLoop]], tuple[Poses, list[bool]]]

SCENES: dict[str, tuple[Make, Errors]] = {
    "drive": (worlds.drive, Errors()),
    "room": (worlds.house, Errors()),
    "bending": (worlds.drive, Errors(bend_rotation=0.02, bend_scale=0.03)),
    "focal": (worlds.drive, Errors(focal=0.05)),
    "outliers": (worlds.drive, Errors(outliers=0.05)),
    "dropped": (worlds.drive, Errors(dropped=0.05)),
    "straight": (worlds.straight, Errors()),
    "turn": (worlds.turn, Errors()),
    "planar": (worlds.planar, Errors()),
    "partial": (worlds.partial, Errors()),
}
"""Where the camera goes, and what is wrong with the windows; `Errors()` has the values that it does not name."""
RECORDED = ("tum_fr1_xyz", "hololens_dvmvs_000", "euroc_mh01_start", "kitti07_first160")
_COLORS = ("#9aa0a6", "#2e86ab", "#e6a23c", "#d1495b", "#6a994e", "#333333", "#f2b5bd")
EXACT = {"drive": worlds.drive, "room": worlds.house}


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
    found |= {"rigid": rigid, "told": told}
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
            windows: Sequence[FakeWindow], loops: Sequence[FakeLoop]) -> Score:
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


def table(results: Sequence[Score]) -> str:
    """Return medians over seeds, a line for each scene, amount of false loops and scheme; of `joint` the worst."""
    lines = [f"{'scene':<20} {'false':>5} {'scheme':<17} {'ATE':>8} {'worst':>8} {'rotation':>8} {'joint':>6} "
             f"{'scale':>7} {'covered':>7} {'time':>6}  loops taken",
             f"{'':<20} {'':>5} {'':<17} {'% of way':>8} {'%':>8} {'deg':>8} {'deg':>6} "
             f"{'log':>7} {'%':>7} {'s':>6}  true, false"]
    for key in dict.fromkeys((r.scene, r.false, r.scheme) for r in results):
        group = [r for r in results if (r.scene, r.false, r.scheme) == key]

        def median(name: str, group: list[Score] = group) -> float:
            return float(np.median([getattr(r, name) for r in group]))

        lines.append(
            f"{key[0]:<20} {key[1]:>5.3g} {key[2]:<17} {median('ate'):>8.3f} {max(r.ate for r in group):>8.3f} "
            f"{median('rotation'):>8.2f} {max(r.joint for r in group):>6.2f} {median('scale'):>7.3f} "
            f"{100 * median('covered'):>7.1f} {median('seconds'):>6.2f}  "
            f"{sum(r.taken for r in group)}/{sum(r.offered for r in group)}, "
            f"{sum(r.taken_false for r in group)}/{sum(r.offered_false for r in group)}")
    return "\n".join(lines)


def summary(results: Sequence[Score]) -> dict[str, Any]:
    """Return the figures that the aims are about, and all scores."""
    index = {(r.scene, r.seed, r.false, r.scheme): r for r in results}
    against, robust, sources, reached = [], [], [], []
    rigid_ratios: dict[str, list[float]] = {}
    for (scene, seed, false, scheme), run in index.items():
        if scheme != "ours":
            continue
        sources.append((run.taken, run.offered))
        if false == 0:
            rivals = [index[scene, seed, false, other].ate for other in ("dense", "sl4")]
            against.append(run.ate / max(min(rivals), 1e-9))
            reached.append(index[scene, seed, false, "told"].ate / max(min(rivals), 1e-9))
            rigid_ratios.setdefault(scene, []).append(run.ate / max(index[scene, seed, false, "rigid"].ate, 1e-9))
        elif (scene, seed, 0.0, "ours") in index:
            robust.append(run.ate / max(index[scene, seed, 0.0, "ours"].ate, 1e-9))
    offered = sum(o for _, o in sources)
    return {"ate_over_better_rival_median": float(np.median(against)) if against else None,
            "ate_told_over_better_rival_median": float(np.median(reached)) if reached else None,
            "ate_over_rigid_median": {scene: float(np.median(ratios)) for scene, ratios in rigid_ratios.items()},
            "ate_with_false_over_without_median": float(np.median(robust)) if robust else None,
            "ate_with_false_over_without_worst": max(robust, default=None),
            "true_loops_rejected": 1 - sum(t for t, _ in sources) / offered if offered else None,
            "runs": [asdict(r) for r in results]}


def draw(path: Path, results: Sequence[Score]) -> None:
    """Write a picture of the ATE of every run, a panel for each amount of false loops."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    amounts = sorted({r.false for r in results})
    names, kinds = list(dict.fromkeys(r.scene for r in results)), list(dict.fromkeys(r.scheme for r in results))
    figure = Figure(figsize=(10, 2.6 * len(amounts) + 1), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for plot, amount in zip(figure.subplots(len(amounts), 1, sharex=True, squeeze=False)[:, 0], amounts, strict=True):
        for offset, (kind, color) in enumerate(zip(kinds, _COLORS, strict=False)):
            runs = [r for r in results if r.false == amount and r.scheme == kind]
            x = [names.index(r.scene) + 0.15 * (offset - (len(kinds) - 1) / 2) for r in runs]
            plot.semilogy(x, [max(r.ate, 1e-4) for r in runs], ".", color=color, label=kind, alpha=0.7)
        plot.set_ylabel(f"ATE, % of the way\n{amount:g} false loops a true one")
        plot.grid(axis="y", color="#dddddd", linewidth=0.6)
        plot.set_axisbelow(True)
        plot.set_xticks(range(len(names)), names, rotation=30, ha="right")
    figure.axes[0].legend(ncols=len(kinds), loc="upper left", fontsize=8)
    figure.savefig(path)


def _joint(world: World, windows: Sequence[FakeWindow], poses: Poses) -> float:
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
    return lambda windows, seed: worlds.recorded(path, windows, seed)
