"""benchmark accuracy: trajectory error on recorded and rendered sequences."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from vggt_ros.benchmarks.recordings import SEQUENCES, load
from vggt_ros.config import Config
from vggt_ros.replay.output import report
from vggt_ros.replay.run import run


def accuracy(names: Sequence[str] = SEQUENCES, seeds: int = 5, config: Config | None = None) -> dict[str, Any]:
    """Replay sequences with seeds 0, 1, ... and print a table; return all figures by sequence.

    Raises:
        SequenceError: a sequence is not there.

    """
    config = config or Config()
    results: dict[str, Any] = {}
    print(f"{'sequence':<20} {'ATE median':>11} {'worst':>8} {'of path':>8} {'coverage':>9} {'images per':>10} "
          f"{'seconds':>8} {'submaps':>8}\n{'':<20} {'m':>11} {'m':>8} {'%':>8} {'%':>9} {'keyframe':>10} "
          f"{'a window':>8} {'most':>8}", flush=True)
    for name in names:
        figures = [report(run(load(name), config.replace({"seed": seed}), progress=sys.stderr.isatty()))
                   for seed in range(seeds)]
        errors = [f["ate_rmse_m"] if f["ate_rmse_m"] is not None else float("inf") for f in figures]

        def median(key: str, figures: list[dict[str, Any]] = figures) -> float:
            return float(np.median([np.nan if f[key] is None else f[key] for f in figures]))

        print(f"{name:<20} {np.median(errors):>11.4f} {max(errors):>8.4f} {median('ate_percent_of_path'):>8.2f} "
              f"{100 * median('coverage'):>9.1f} {median('images_per_keyframe'):>10.1f} "
              f"{median('seconds_a_window_median'):>8.2f} {max(f['submaps'] for f in figures):>8}", flush=True)
        results[name] = {"ate_median_m": float(np.median(errors)), "ate_worst_m": max(errors), "runs": figures}
    return results
