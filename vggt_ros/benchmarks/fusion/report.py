"""Tables and pictures of benchmark fusion."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.arguments import count, new_file
from vggt_ros.benchmarks.fusion import comparison
from vggt_ros.benchmarks.fusion.comparison import Score
from vggt_ros.benchmarks.recordings import data_folder
from vggt_ros.settings import ConfigError

_COLORS = ("#9aa0a6", "#2e86ab", "#e6a23c", "#d1495b", "#6a994e", "#333333", "#f2b5bd")


def compare_schemes(scenes: Sequence[str] = (), seeds: int = 10, windows: int = 40,
                    false: Sequence[float] = (0.0, 1.0, 2.0),
                    picture: Path | None = None) -> dict[str, Any]:
    """Compare schemes to fuse windows, print tables and return all figures; without `scenes`, on all scenes.

    Raises:
        ConfigError: a scene is not known.

    """
    folder = data_folder()
    known = comparison.scenes(folder)
    if unknown := [name for name in scenes if name not in known]:
        raise ConfigError(f"no scene {unknown[0]!r}; there are {', '.join(known)} (recorded ones in {folder})")
    checks = comparison.run_exact(windows)
    print(f"windows without errors\n{table(checks)}\n", flush=True)
    results = comparison.run_schemes(list(scenes or known), seeds, windows, false, folder)
    figures = summary(results)
    print(table(results))
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{name}: {', '.join(f'{scene} {ratio:.3f}' for scene, ratio in value.items())}")
        elif name != "runs" and value is not None:
            print(f"{name}: {value:.3f}")
    if picture:
        draw(picture, results)
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark fusion`."""
    parser.add_argument("--scenes", nargs="+", default=[], metavar="NAME", help="default: all")
    parser.add_argument("--seeds", type=count, default=10, help="runs of each scene (default 10)")
    parser.add_argument("--windows", type=count, default=40, help="number of windows (default 40; up to 1000)")
    parser.add_argument("--false", type=float, nargs="+", default=[0.0, 1.0, 2.0], metavar="RATIO",
                        help="number of false loops for each true one (default 0 1 2)")
    parser.add_argument("--picture", type=new_file, metavar="FILE", help="draw the errors of all runs there, as PNG")
    parser.set_defaults(run=lambda options: (compare_schemes(
        options.scenes, options.seeds, options.windows, options.false, options.picture), True))


def table(results: Sequence[Score]) -> str:
    """Return medians over seeds, a line for each scene, ratio of false loops and scheme; of `joint` the largest."""
    lines = [f"{'scene':<20} {'false':>5} {'scheme':<17} {'ATE':>8} {'worst':>8} {'rotation':>8} {'joint':>6} "
             f"{'scale':>7} {'covered':>7} {'time':>6}  loops accepted",
             f"{'':<20} {'':>5} {'':<17} {'% path':>8} {'%':>8} {'deg':>8} {'deg':>6} "
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
    """Return the summary figures, and all scores."""
    index = {(r.scene, r.seed, r.false, r.scheme): r for r in results}
    over_rival, over_clean, true_loops, known_over_rival = [], [], [], []
    rigid_ratios: dict[str, list[float]] = {}
    for (scene, seed, false, scheme), run in index.items():
        if scheme != "ours":
            continue
        true_loops.append((run.taken, run.offered))
        if false == 0:
            rival_errors = [index[scene, seed, false, other].ate for other in ("dense", "sl4")]
            over_rival.append(run.ate / max(min(rival_errors), 1e-9))
            known_over_rival.append(index[scene, seed, false, "told"].ate / max(min(rival_errors), 1e-9))
            rigid_ratios.setdefault(scene, []).append(run.ate / max(index[scene, seed, false, "rigid"].ate, 1e-9))
        elif (scene, seed, 0.0, "ours") in index:
            over_clean.append(run.ate / max(index[scene, seed, 0.0, "ours"].ate, 1e-9))
    offered = sum(o for _, o in true_loops)
    return {"ate_over_better_rival_median": float(np.median(over_rival)) if over_rival else None,
            "ate_told_over_better_rival_median": float(np.median(known_over_rival)) if known_over_rival else None,
            "ate_over_rigid_median": {scene: float(np.median(ratios)) for scene, ratios in rigid_ratios.items()},
            "ate_with_false_over_without_median": float(np.median(over_clean)) if over_clean else None,
            "ate_with_false_over_without_worst": max(over_clean, default=None),
            "true_loops_rejected": 1 - sum(t for t, _ in true_loops) / offered if offered else None,
            "runs": [asdict(r) for r in results]}


def draw(path: Path, results: Sequence[Score]) -> None:
    """Write a picture of the ATE of every run, a panel for each ratio of false loops."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    amounts = sorted({r.false for r in results})
    names, schemes = list(dict.fromkeys(r.scene for r in results)), list(dict.fromkeys(r.scheme for r in results))
    figure = Figure(figsize=(10, 2.6 * len(amounts) + 1), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for plot, amount in zip(figure.subplots(len(amounts), 1, sharex=True, squeeze=False)[:, 0], amounts, strict=True):
        for offset, (scheme, color) in enumerate(zip(schemes, _COLORS, strict=False)):
            runs = [r for r in results if r.false == amount and r.scheme == scheme]
            x = [names.index(r.scene) + 0.15 * (offset - (len(schemes) - 1) / 2) for r in runs]
            plot.semilogy(x, [max(r.ate, 1e-4) for r in runs], ".", color=color, label=scheme, alpha=0.7)
        plot.set_ylabel(f"ATE, % of the path\n{amount:g} false loops for each true one")
        plot.grid(axis="y", color="#dddddd", linewidth=0.6)
        plot.set_axisbelow(True)
        plot.set_xticks(range(len(names)), names, rotation=30, ha="right")
    figure.axes[0].legend(ncols=len(schemes), loc="upper left", fontsize=8)
    figure.savefig(path)
