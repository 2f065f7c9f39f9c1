"""benchmark map: errors of the dense map on recorded sequences with a depth camera, and on rendered rooms."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from vggt_ros.benchmarks.recordings import data_folder, load
from vggt_ros.config import Config
from vggt_ros.evaluation.errors import EvaluationError
from vggt_ros.evaluation.map_errors import Distances, MapAccuracy, map_accuracy, true_cloud
from vggt_ros.replay.run import run

RENDERED = ("demo_room",)


def sequences_with_depth() -> list[str]:
    """Return the rendered sequences, and the recorded ones with depth images and ground truth."""
    names = list(RENDERED)
    for folder in sorted(data_folder().iterdir()) if data_folder().is_dir() else ():
        if (folder / "depth.txt").exists() and (folder / "groundtruth.txt").exists():
            names.append(folder.name)
    return names


def maps(names: Sequence[str] = (), config: Config | None = None) -> dict[str, Any]:
    """Replay sequences and print a table of the errors of their maps; return all figures by sequence.

    Args:
        names: of the sequences; by default all of `sequences_with_depth`.
        config: the settings.

    Raises:
        SequenceError: a sequence is not there.

    """
    results: dict[str, Any] = {}
    print(f"{'sequence':<20} {'accuracy: RMSE, median, < 5 cm':>31} {'every point: RMSE, < 5 cm':>26} "
          f"{'completeness':>20} {'chamfer':>8} {'F-score':>8} {'ATE':>7}", flush=True)
    for name in names or sequences_with_depth():
        sequence = load(name)
        result = run(sequence, config or Config(), progress=sys.stderr.isatty())
        trajectory = result.trajectory(result.slam.solution.largest_submap)
        try:
            if sequence.truth is None:
                raise EvaluationError("no ground truth")
            figures = map_accuracy(result.slam.map_cloud().points, trajectory, sequence.truth,
                                   true_cloud(sequence.depths(), sequence.camera, sequence.truth))
        except EvaluationError as error:
            print(f"{name:<20} {error}", flush=True)
            results[name] = {"error": str(error)}
            continue
        accuracy = result.accuracy()
        results[name] = {**dataclasses.asdict(figures), "ate_rmse_m": accuracy and accuracy.ate_rmse}
        print(f"{name:<20} {_row(figures)} {accuracy.ate_rmse if accuracy else float('nan'):>7.4f}", flush=True)
    return results


def _row(figures: MapAccuracy) -> str:
    def three(one: Distances) -> str:
        return f"{one.rmse:.3f} {one.median:.3f} {100 * one.near:3.0f} %"

    return (f"{three(figures.accuracy):>31} {f'{figures.stored.rmse:.3f} {100 * figures.stored.near:3.0f} %':>26} "
            f"{three(figures.completeness):>20} {figures.chamfer:>8.3f} {100 * figures.f_score:>6.0f} %")
