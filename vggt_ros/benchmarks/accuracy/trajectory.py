"""benchmark accuracy: trajectory error, coverage and cost on recorded and rendered sequences."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vggt_ros.arguments import add_settings, count
from vggt_ros.benchmarks.disturbances import DISTURBANCES
from vggt_ros.benchmarks.recordings import SEQUENCES, load
from vggt_ros.config import Config
from vggt_ros.replay.output import report
from vggt_ros.replay.run import Run, run

_COLUMNS = (("sequence", "", 32), ("ATE", "m", 8), ("worst", "m", 8), ("of path", "%", 8), ("images'", "m", 8),
            ("RPE 1 s", "deg", 8), ("covered", "%", 8), ("located", "%", 8), ("submaps", "most", 8),
            ("keyframe", "images", 9), ("refused", "windows", 8), ("CPU", "s/image", 8), ("length", "depths", 8))


def accuracy(names: Sequence[str] = SEQUENCES, seeds: int = 5, config: Config | None = None) -> dict[str, Any]:
    """Replay sequences with seeds 0, 1, ... and print a table; return all figures by sequence.

    Figures are medians, where the table does not say otherwise. Sequences without ground truth have no errors, but the
    share of images located, submaps, and the length of the path in median depths of the map.

    Raises:
        SequenceError: a sequence is not there.

    """
    config = config or Config()
    results: dict[str, Any] = {}
    for line in (0, 1):
        print(" ".join(f"{column[line]:>{column[2]}}" for column in _COLUMNS), flush=True)
    for name in names:
        figures = [_measure(name, config.replace({"seed": seed})) for seed in range(seeds)]
        errors = [f["ate_rmse_m"] for f in figures if f["ate_rmse_m"] is not None]

        def median(key: str, factor: float = 1.0, figures: list[dict[str, Any]] = figures) -> float:
            known = [f[key] for f in figures if f[key] is not None]
            return factor * float(np.median(known)) if known else float("nan")

        values = (median("ate_rmse_m"), max(errors, default=float("nan")), median("ate_percent_of_path"),
                  median("frames_ate_rmse_m"), median("frames_rpe_1s_deg"), median("coverage", 100),
                  median("frames_located", 100), max(f["submaps"] for f in figures), median("images_per_keyframe"),
                  median("windows_refused"), median("cpu_seconds_an_image"), median("path_median_depths"))
        digits = (4, 4, 2, 4, 2, 1, 1, 0, 1, 0, 3, 1)
        texts = [_text(value, places) for value, places in zip(values, digits, strict=True)]
        print(" ".join([f"{name:<{_COLUMNS[0][2]}}", *(f"{text:>{column[2]}}" for text, column in
                                                      zip(texts, _COLUMNS[1:], strict=True))]), flush=True)
        results[name] = {"ate_median_m": None if not errors else float(np.median(errors)),
                         "ate_worst_m": None if not errors else max(errors), "runs": figures}
    return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark accuracy`."""
    parser.add_argument("--seeds", type=count, default=5, help="runs of each sequence (default 5)")
    parser.add_argument("--sequences", nargs="+", default=list(SEQUENCES), metavar="NAME",
                        help=f"of {', '.join(SEQUENCES)} or others in VGGT_ROS_DATA; NAME:CHANGE makes one harder by "
                        f"{', '.join(DISTURBANCES)}, uncalibratedN (N degrees are assumed, or 65) or stepN "
                        "(every N-th image)")
    add_settings(parser)
    parser.set_defaults(run=lambda options: (accuracy(
        options.sequences, options.seeds, Config().parse(options.set)), True))


def _measure(name: str, config: Config) -> dict[str, Any]:
    """Return the report of a run, with its CPU time, the length of its path and the focal lengths that it found."""
    began = time.process_time()
    done = run(load(name), config, progress=sys.stderr.isatty())
    seconds = time.process_time() - began
    return report(done) | {"cpu_seconds_an_image": seconds / max(len(done.frames), 1),
                           "windows_refused": sum(bool(update.refused) for update in done.updates),
                           "path_median_depths": _path_length(done),
                           "focal_px": [update.report["focal_px"] for update in done.updates
                                        if "focal_px" in update.report]}


def _path_length(done: Run) -> float | None:
    """Return the length of the path of the largest submap's images, in median depths of its keyframes."""
    solution = done.slam.solution
    rows = np.flatnonzero(solution.submaps == solution.largest_submap)
    _, poses = done.frame_trajectory(solution.largest_submap)
    if len(poses) < 2:
        return None
    depths = [solution.keyframes[int(solution.ids[row])].median_depth * float(solution.scale[row]) for row in rows]
    return float(np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).sum() / np.nanmedian(depths))


def _text(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"
