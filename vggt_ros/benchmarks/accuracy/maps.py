"""benchmark map: errors of the dense map on recorded sequences with a depth camera, and on rendered rooms."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vggt_ros.arguments import add_settings, new_folder
from vggt_ros.benchmarks.recordings import data_folder, load
from vggt_ros.config import Config
from vggt_ros.evaluation.errors import EvaluationError
from vggt_ros.evaluation.map_errors import Distances, MapAccuracy, map_accuracy, true_cloud
from vggt_ros.evaluation.map_pictures import draw_map, without_single_points
from vggt_ros.replay.run import Run, run


def sequences_with_depth() -> list[str]:
    """Return the rendered room, and the recorded sequences with depth images and ground truth."""
    names = ["demo_room"]
    for folder in sorted(data_folder().iterdir()) if data_folder().is_dir() else ():
        if (folder / "depth.txt").exists() and (folder / "groundtruth.txt").exists():
            names.append(folder.name)
    return names


def maps(names: Sequence[str] = (), config: Config | None = None, pictures: Path | None = None) -> dict[str, Any]:
    """Replay sequences and print a table of the errors of their maps; return all figures by sequence.

    Args:
        names: of the sequences; by default all of `sequences_with_depth`.
        config: the settings.
        pictures: folder for a picture of each map as a camera saw it, `NAME.png`, also without ground truth.

    Raises:
        SequenceError: a sequence is not there.

    """
    print(f"{'sequence':<20} {'accuracy: RMSE, median, < 5 cm':>31} {'every point: RMSE, < 5 cm':>26} "
          f"{'completeness':>20} {'chamfer':>8} {'F-score':>8} {'ATE':>7}", flush=True)

    def measure(result: Run) -> tuple[dict[str, Any], str]:
        if pictures is not None:
            _draw(result, pictures)
        return _measure(result)

    return replay_each(names, config or Config(), measure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark map`."""
    add_sequences(parser)
    parser.add_argument("--pictures", type=new_folder, metavar="FOLDER", help="draw each map as a camera saw it, also "
                        "of sequences without ground truth")
    add_settings(parser)
    parser.set_defaults(run=lambda options: (maps(
        options.sequences, Config().parse(options.set), options.pictures), True))


def add_sequences(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the sequences that `replay_each` takes."""
    parser.add_argument("--sequences", nargs="+", default=[], metavar="NAME",
                        help="default: demo_room and all in VGGT_ROS_DATA with depth and ground truth")


def replay_each(names: Sequence[str], config: Config,
                measure: Callable[[Run], tuple[dict[str, Any], str]]) -> dict[str, Any]:
    """Replay sequences, by default all of `sequences_with_depth`, and print a row for each; return all figures.

    `measure` returns the figures of a run and its row; where it raises EvaluationError, that is the row.

    Raises:
        SequenceError: a sequence is not there.

    """
    results: dict[str, Any] = {}
    for name in names or sequences_with_depth():
        result = run(load(name), config, progress=sys.stderr.isatty())
        try:
            results[name], row = measure(result)
        except EvaluationError as error:
            results[name], row = {"error": str(error)}, str(error)
        print(f"{name:<20} {row}", flush=True)
    return results


def _draw(result: Run, folder: Path) -> None:
    """Write the picture of a run's map into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    voxel = result.slam.surface.voxel
    draw_map(folder / f"{result.sequence.name}.png", without_single_points(result.slam.map_cloud(), voxel),
             result.slam.solution.map_camera, voxel)


def _measure(result: Run) -> tuple[dict[str, Any], str]:
    """Return the errors of a run's map, and its row of the table; raises EvaluationError without ground truth."""
    sequence = result.sequence
    if sequence.truth is None:
        raise EvaluationError("no ground truth")
    figures = map_accuracy(result.slam.map_cloud().points, result.trajectory(result.slam.solution.largest_submap),
                           sequence.truth, true_cloud(sequence.depths(), sequence.camera, sequence.truth))
    accuracy = result.accuracy()
    return ({**dataclasses.asdict(figures), "ate_rmse_m": accuracy and accuracy.ate_rmse},
            f"{_row(figures)} {accuracy.ate_rmse if accuracy else float('nan'):>7.4f}")


def _row(figures: MapAccuracy) -> str:
    def three(one: Distances) -> str:
        return f"{one.rmse:.3f} {one.median:.3f} {100 * one.near:3.0f} %"

    return (f"{three(figures.accuracy):>31} {f'{figures.stored.rmse:.3f} {100 * figures.stored.near:3.0f} %':>26} "
            f"{three(figures.completeness):>20} {figures.chamfer:>8.3f} {100 * figures.f_score:>6.0f} %")
