"""evaluate: a trajectory, depth maps, or a dense map, against ground truth."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vggt_ros.arguments import given_path, new_file
from vggt_ros.cli.interrupts import ends_in_order
from vggt_ros.evaluation.errors import EvaluationError, accuracy, depth_accuracy
from vggt_ros.evaluation.map_errors import MapAccuracy, map_accuracy, true_cloud
from vggt_ros.evaluation.pictures import draw_trajectory
from vggt_ros.sequences.ground_truth import FORMATS, find_truth, read_truth
from vggt_ros.sequences.opening import bag_at, open_sequence
from vggt_ros.sequences.sequence import Sequence, Truth
from vggt_ros.storage.files import FileError, read_ply, read_trajectory


def evaluate_trajectory(trajectory: Path, truth: Path, with_scale: bool, plot: Path | None) -> dict[str, float]:
    """Print the errors of a trajectory against ground truth, draw both if asked to, and return the figures.

    Raises:
        FileError: a file cannot be read.
        EvaluationError: the two have too few stamps in common.

    """
    trajectory = trajectory / "trajectory.txt" if trajectory.is_dir() else trajectory
    ours = read_trajectory(trajectory)
    true = true_trajectory(truth)
    figures = accuracy(*ours, *true, with_scale=with_scale)
    print(f"{figures.poses} poses aligned by {'Sim(3)' if with_scale else 'SE(3)'}"
          + (f", {figures.scale:.6g} m per map unit" if with_scale else ""))
    print(f"ATE  RMSE {figures.ate_rmse:.4f} m ({100 * figures.ate_rmse / max(figures.path, 1e-9):.2f} % of the path), "
          f"median {figures.ate_median:.4f} m, max {figures.ate_max:.4f} m")
    print(f"RPE  RMSE {figures.rpe_translation:.4f} m, {figures.rpe_rotation:.3f} deg from one pose to the next")
    if figures.rpe_second_translation is not None:
        print(f"RPE  RMSE {figures.rpe_second_translation:.4f} m, {figures.rpe_second_rotation:.3f} deg over 1 s")
    print(f"path {figures.path:.2f} m, {100 * figures.coverage:.1f} % covered")
    if plot is not None:
        draw_trajectory(plot, *ours, true, figures, trajectory.stem, with_scale=with_scale)
        print(f"drawn to {plot}")
    return dataclasses.asdict(figures)


def true_trajectory(path: Path) -> Truth:
    """Return the ground truth in a file, a recording or its folder; raises FileError if there is none."""
    if not path.exists():
        raise FileError(f"{path}: no such file or folder")
    if bag_at(path):
        found = open_sequence(path).truth
    else:
        found = find_truth(path) if path.is_dir() else read_truth(path)
    if found is None:
        raise FileError(f"{path}: there is no ground truth in it; expected is {FORMATS}")
    return found


def evaluate_depth(folder: Path, sequence_path: Path) -> dict[str, float]:
    """Print the errors of depth maps against a sequence's sensor depth, and return the figures.

    Raises:
        FileError: a file cannot be read.
        EvaluationError: there is nothing to compare.

    """
    sequence = _sequence(sequence_path)
    folder = folder / "depth" if (folder / "depth").is_dir() else folder
    figures = depth_accuracy(folder, tqdm(sequence.depths(), unit="map", disable=None, leave=False), sequence.camera)
    print(f"{figures.keyframes} depth maps, {figures.scale:.6g} m per map unit (median of all)")
    print(f"absolute relative error {figures.confident:.4f} (median over the more confident half), "
          f"{figures.all:.4f} (median over all)")
    print(f"known for {100 * figures.known:.1f} % of the pixels where the sensor has depth")
    return dataclasses.asdict(figures)


def evaluate_map(cloud: Path, sequence_path: Path, trajectory: Path | None = None) -> dict[str, Any]:
    """Print the errors of a map against the points of a sequence's depth images, and return the figures.

    Args:
        cloud: PLY file of the map, or a folder with `map.ply`.
        sequence_path: with depth images and ground truth.
        trajectory: of the map, in TUM's format; by default `trajectory.txt` beside the map.

    Raises:
        FileError: a file cannot be read.
        EvaluationError: there is nothing to compare.

    """
    cloud = cloud / "map.ply" if cloud.is_dir() else cloud
    sequence = _sequence(sequence_path)
    if sequence.truth is None:
        raise EvaluationError(f"{sequence_path}: it has no ground truth, by which the map could be aligned")
    points, poses = read_ply(cloud).points, read_trajectory(trajectory or cloud.parent / "trajectory.txt")
    true_points = true_cloud(tqdm(sequence.depths(), unit="image", disable=None, leave=False), sequence.camera,
                             sequence.truth)
    figures = map_accuracy(points, poses, sequence.truth, true_points)
    print(describe_map(figures))
    return dataclasses.asdict(figures)


def _sequence(path: Path) -> Sequence:
    """Open a recording, and say what is assumed of it."""
    sequence = open_sequence(path)
    for line in sequence.assumptions:
        print(f"assumed: {line}", file=sys.stderr)
    return sequence


def describe_map(figures: MapAccuracy) -> str:
    """Return the errors of a map in a few lines."""
    lines = [f"{figures.points} voxels of the map, {figures.true_points} of the truth, {figures.scale:.6g} m per map "
             "unit"]
    for name, one in (("accuracy", figures.accuracy), ("  (every stored point)", figures.stored),
                      ("completeness", figures.completeness)):
        lines.append(f"{name:<22} RMSE {one.rmse:.3f} m, median {one.median:.3f} m, {100 * one.near:.0f} % within 5 cm")
    return "\n".join([*lines, f"chamfer {figures.chamfer:.3f} m, F-score {100 * figures.f_score:.0f} % at 5 cm"])


@ends_in_order(FileError, EvaluationError, OSError)
def main(args: list[str] | None = None, prog: str = "evaluate") -> int:
    """Evaluate the files named on the command line."""
    parser = argparse.ArgumentParser(prog=prog, description="Compares a trajectory, depth maps or a dense "
                                     "map with ground truth.")
    parser.add_argument("estimate", type=given_path, nargs="?", metavar="TRAJECTORY",
                        help="file in TUM's format, or a folder with trajectory.txt, such as of `replay`")
    parser.add_argument("truth", type=given_path, metavar="GROUNDTRUTH", nargs="?",
                        help="file of TUM, EuRoC or KITTI, a folder with one, or a bag")
    parser.add_argument("--align", choices=("se3", "sim3"), default="sim3", help="alignment (default sim3)")
    parser.add_argument("--plot", type=new_file, metavar="FILE",
                        help="draw both trajectories in the plane of the path, as PNG")
    parser.add_argument("--depth", type=given_path, nargs=2, metavar=("FOLDER", "SEQUENCE"),
                        help="compare the depth maps that `replay --depth` wrote with a sequence's sensor depth")
    parser.add_argument("--map", type=given_path, nargs=2, metavar=("MAP", "SEQUENCE"),
                        help="compare a map (map.ply or its folder, with trajectory.txt beside it) with a sequence's "
                        "sensor depth")
    parser.add_argument("--trajectory", type=given_path, metavar="FILE", help="another trajectory of the MAP")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures there, as JSON")
    options = parser.parse_args(args)
    given = [options.truth, options.depth, options.map]
    if sum(value is not None for value in given) != 1 or (options.estimate and not options.truth):
        parser.error("give TRAJECTORY and GROUNDTRUTH, or --depth FOLDER SEQUENCE, or --map MAP SEQUENCE")
    if options.trajectory and not options.map:
        parser.error("--trajectory belongs to --map MAP SEQUENCE")
    figures: dict[str, Any]
    if options.map:
        figures = evaluate_map(options.map[0], options.map[1], options.trajectory)
    elif options.depth:
        figures = evaluate_depth(*options.depth)
    else:
        figures = evaluate_trajectory(options.estimate, options.truth, options.align == "sim3", options.plot)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
