"""benchmark scale: error of metric scale by each source, and how soon it is observed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence as Sequence_
from typing import Any

import numpy as np

from vggt_ros.arguments import add_settings
from vggt_ros.benchmarks.recordings import load
from vggt_ros.config import Config
from vggt_ros.evaluation.errors import EvaluationError, align
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.replay.metric_sources import MetricData
from vggt_ros.replay.output import report
from vggt_ros.replay.run import run
from vggt_ros.sequences.sequence import Sequence
from vggt_ros.settings import ConfigError
from vggt_ros.slam import Slam
from vggt_ros.synthetic import OracleNoise, SceneReconstructor, corridor, drive
from vggt_ros.synthetic.imu import imu_samples
from vggt_ros.synthetic.odometry import OdometryNoise, drifting_odometry
from vggt_ros.synthetic.sequence import RenderedSequence
from vggt_ros.windows.solution import OBSERVED, Update

SOURCES = ("odometry", "depth", "height", "imu", "factor")
HEIGHT = 1.2
"""Height of the camera over the floor of the rendered drive, meters."""


_FACTOR_AFTER = 5.0
"""Path length in meters after which `scale.factor` is set, to what makes the map metric then."""
_POSES_PER_IMAGE = 20
"""Poses from image to image, for the IMU: 300 a second."""


def rendered_drive(uneven: bool = False, count: int = 300) -> tuple[RenderedSequence, Reconstructor]:
    """Return 20 m along a corridor, swaying sideways, at 15 images a second, and a reconstructor with small errors.

    Each window has a scale of its own, and errors of a millirad, 0.3 % of the depth and 5 % a pixel. An `uneven` drive
    changes between 0.4 and 1.6 m/s, every three seconds: an IMU does not determine the scale of an even one.
    """
    scene = corridor()
    dense = drive(_POSES_PER_IMAGE * (count - 1) + 1, length=20.0, height=HEIGHT)
    seconds = np.arange(len(dense)) / (15 * _POSES_PER_IMAGE)
    if uneven:
        dense[:, 0, 3] += 0.6 * 3 / (2 * np.pi) * np.sin(2 * np.pi / 3 * seconds)
    dense[:, 1, 3] += 0.3 * np.sin(dense[:, 0, 3] / 2)
    poses = dense[::_POSES_PER_IMAGE]
    sequence = RenderedSequence("rendered_uneven" if uneven else "rendered_drive", scene, poses, (320, 240))
    stamps = sequence.truth[0]
    sequence.imu = imu_samples(dense, stamps[0] + np.round(1e9 * seconds).astype(np.int64))
    noise = OracleNoise(rotation=0.001, translation=0.003, depth=0.05)
    return sequence, SceneReconstructor(scene, stamps.tolist(), poses, noise)


def measure(sequence: Sequence, source: str, config: Config, reconstructor: Reconstructor | None = None,
            seed: int = 0) -> dict[str, Any]:
    """Replay a sequence with ground truth and one source of scale; return the figures.

    The odometry is the truth with noise, a clock offset and three seconds of slip; depth and IMU are the sequence's;
    the fixed factor is the one that makes the map metric after 5 m.
    `error` is that of the map's scale, as a fraction, by the best similarity onto the truth: when scale is first
    observed, after 10 m or 20 s of images, whichever is first, and at the end.
    """
    if source == "height":
        config = config.replace({"scale.camera_height": HEIGHT})
    imu = getattr(sequence, "imu", None) if source == "imu" else None
    if (source == "imu" and imu is None) or (source == "height" and not isinstance(sequence, RenderedSequence)):
        raise ConfigError(f"{sequence.name} has no {source}")
    assert sequence.truth is not None, "needs ground truth"
    stamps, world_camera = sequence.truth
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(world_camera[:, :3, 3], axis=0), axis=1))])
    errors: list[tuple[float, float, float]] = []

    def on_update(slam: Slam, _: Update) -> None:
        solution = slam.solution
        if solution.metric.state != OBSERVED and (source != "factor" or not len(solution)):
            return
        now = int(np.searchsorted(stamps, solution.stamps[-1]))
        try:
            scale = align(*slam.solution.trajectory(int(solution.submaps[-1])), stamps, world_camera).scale
        except EvaluationError:
            return
        if source == "factor":  # as a user who has measured a length in the map
            if slam.config.scale.factor == 0.0 and length[min(now, len(length) - 1)] >= _FACTOR_AFTER:
                slam.configure(slam.config.replace({"scale.factor": scale}))
                scale = align(*slam.solution.trajectory(int(slam.solution.submaps[-1])), stamps, world_camera).scale
            if slam.config.scale.factor == 0.0:
                return
        errors.append(((stamps[min(now, len(stamps) - 1)] - stamps[0]) / 1e9, length[min(now, len(length) - 1)],
                       1 / scale - 1))

    odometry = drifting_odometry(stamps, world_camera, OdometryNoise(), seed) if source == "odometry" else None
    replayed = run(sequence, config, reconstructor, on_update=on_update,
                   metric=MetricData(odometry, source == "depth", imu))
    figures = report(replayed)
    later = [entry for entry in errors if entry[0] >= 20.0 or entry[1] >= 10.0]
    return {
        "source": source,
        "observed_s": errors[0][0] if errors else None,
        "observed_m": errors[0][1] if errors else None,
        "error_first": errors[0][2] if errors else None,
        "error_10m_20s": later[0][2] if later else None,
        "error_end": errors[-1][2] if errors else None, "sigma_end": replayed.slam.solution.metric.sigma,
        "ate_sim3_m": figures["ate_rmse_m"], "ate_se3_m": figures["ate_rmse_unscaled_m"],
        "rescaled": sum(update.rescaled != 1.0 for update in replayed.updates), "submaps": figures["submaps"],
        "sources": figures["scale_sources"],
    }


def scale(sequences: Sequence_[tuple[Sequence, Reconstructor | None]], sources: Sequence_[str],
          config: Config) -> dict[str, Any]:
    """Measure sequences, each with its reconstructor or None for that of the settings, and print a table."""
    results: dict[str, Any] = {}
    print(f"{'sequence':<20} {'source':<9} {'observed after':>15} {'error of scale, %':>28} {'sigma':>6} "
          f"{'ATE SE(3)':>10} {'Sim(3)':>8} {'ratio':>6}\n{'':<20} {'':<9} {'s':>7} {'m':>7} {'first':>9} "
          f"{'10 m, 20 s':>10} {'end':>7} {'%':>6} {'m':>10} {'m':>8}", flush=True)
    for sequence, reconstructor in sequences:
        for source in sources:
            row = measure(sequence, source, config, reconstructor)
            results[f"{sequence.name} {source}"] = row
            ratio = row["ate_se3_m"] / row["ate_sim3_m"] if row["ate_se3_m"] and row["ate_sim3_m"] else None
            cells = [(row["observed_s"], 7, 1), (row["observed_m"], 7, 1), (_percent(row["error_first"]), 9, 2),
                     (_percent(row["error_10m_20s"]), 10, 2), (_percent(row["error_end"]), 7, 2),
                     (_percent(row["sigma_end"]), 6, 2), (row["ate_se3_m"], 10, 4), (row["ate_sim3_m"], 8, 4),
                     (ratio, 6, 2)]
            print(f"{sequence.name:<20} {source:<9} "
                  + " ".join(f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}f}"
                             for value, width, digits in cells), flush=True)
    return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark scale`."""
    parser.add_argument("--sequences", nargs="+", default=["rendered_drive"], metavar="NAME",
                        help="rendered_drive or rendered_uneven, which have all sources, or names in VGGT_ROS_DATA")
    parser.add_argument("--sources", nargs="+", default=["odometry", "depth"], choices=SOURCES)
    add_settings(parser)
    parser.set_defaults(run=lambda options: (scale(
        [rendered_drive(name == "rendered_uneven") if name.startswith("rendered_") else (load(name), None)
         for name in options.sequences], options.sources, Config().parse(options.set)), True))


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction
