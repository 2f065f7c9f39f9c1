"""benchmark refinement: what bundle adjustment makes of a network's windows, on images whose true depth is known."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vggt_ros.benchmarks.accuracy.network_errors import ErringReconstructor, NetworkErrors
from vggt_ros.benchmarks.recordings import load
from vggt_ros.config import Config
from vggt_ros.evaluation.errors import accuracy, associate
from vggt_ros.features.tracks import FeatureTracks
from vggt_ros.geometry.camera import Rectifier, rectify_depth
from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.reconstruction.refined import RefinedReconstructor
from vggt_ros.reconstruction.vggt.model.image_size import network_size
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.sequences.sequence import Sequence as Recording
from vggt_ros.sequences.sequence import SequenceError
from vggt_ros.slam import Slam
from vggt_ros.windows.keyframe import Keyframe, overlapping_windows


def views_with_depth(recording: Recording, config: Config) -> tuple[list[Keyframe], dict[int, Array],
                                                                     dict[int, NDArray[np.float32]]]:
    """Return the images that have sensor depth as keyframes, their true poses and their depth, by stamp.

    Corners are tracked through all images, so that it is known how fast those of a keyframe move, as in the node.

    Raises:
        SequenceError: there is no ground truth, or no depth.

    """
    if recording.truth is None:
        raise SequenceError(f"{recording.name}: no ground truth")
    size = network_size(recording.camera, config.of(VggtConfig).width)
    rectify = Rectifier(recording.camera, size, recording.rectified)
    width, height = rectify.size
    depth = {stamp: rectify_depth(sensor, rectify.camera, rectify.intrinsics, (height, width))
             for stamp, sensor in recording.depths()}
    stamps, poses = recording.truth
    keyframes: list[Keyframe] = []
    found: dict[int, Array] = {}
    tracks, is_new = FeatureTracks(config.tracking.features), False
    for stamp, raw in recording:
        image = rectify(raw)
        tracks.advance(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8), stamp=stamp)
        if is_new and (corners := keyframes[-1].corners) is not None:
            keyframes[-1] = replace(keyframes[-1], corners=corners.with_velocity(tracks.corners_before()))
        tracks.replenish()
        rows = associate(np.array([stamp]), stamps)
        is_new = stamp in depth and len(rows[0]) > 0
        if is_new:
            found[stamp] = poses[rows[1][0]]
            keyframes.append(Keyframe(len(keyframes), stamp, image, rectify.intrinsics, corners=tracks.corners()))
    if not keyframes:
        raise SequenceError(f"{recording.name}: no image has depth and a true pose")
    return keyframes, found, depth


def fuse(keyframes: Sequence[Keyframe], reconstructor: Reconstructor, config: Config) -> tuple[Slam, list[float], int]:
    """Return a map of windows of the keyframes, the seconds that each refinement took, and how many it accepted."""
    slam, seconds, refined = Slam(config, reconstructor), [], 0
    for window in overlapping_windows(keyframes, config.windows.size, config.windows.overlap):
        update = slam.step(window)
        if "refine_s" in update.report:
            seconds.append(update.report["refine_s"])
            refined += update.report["refined"] > 0
    return slam, seconds, refined


def refinement(names: Sequence[str], seeds: int = 3, calibrated: bool = True, config: Config | None = None
               ) -> dict[str, Any]:
    """Print the trajectory error of windows with a network's errors, without and with refinement; return all figures.

    Raises:
        SequenceError: a sequence is not there, or has no depth.

    """
    config = config or Config()
    results: dict[str, Any] = {}
    print(f"{'sequence':<20} {'images':>6} {'seed':>4} {'ATE':>8} {'refined':>8} {'ratio':>6} {'refined':>8} "
          f"{'seconds':>8}")
    print(f"{'':<20} {'':>6} {'':>4} {'m':>8} {'m':>8} {'':>6} {'windows':>8} {'a window':>8}", flush=True)
    for name in names:
        keyframes, poses, depth = views_with_depth(load(name), config)
        keyframes = [replace(keyframe, calibrated=calibrated) for keyframe in keyframes]
        rows: list[dict[str, float]] = []
        for seed in tqdm(range(seeds), desc=name, disable=not sys.stderr.isatty()):
            inner = ErringReconstructor(poses, depth, keyframes[0].intrinsics, NetworkErrors(), seed,
                                        config.of(VggtConfig))
            errors = []
            for reconstructor in (inner, RefinedReconstructor(inner)):
                slam, seconds, refined = fuse(keyframes, reconstructor, config)
                stamps, camera = slam.solution.trajectory(slam.solution.largest_submap)
                truth = np.array(sorted(poses)), np.array([poses[stamp] for stamp in sorted(poses)])
                errors.append(accuracy(stamps, camera, *truth).ate_rmse)
            rows.append({"ate_m": errors[0], "ate_refined_m": errors[1], "windows_refined": refined,
                         "windows_tried": len(seconds), "seconds": float(np.median(seconds)) if seconds else 0.0})
            accepted = f"{refined}/{len(seconds)}"
            print(f"{name:<20} {len(keyframes):>6} {seed:>4} {errors[0]:>8.4f} {errors[1]:>8.4f} "
                  f"{errors[1] / errors[0]:>6.2f} {accepted:>8} {rows[-1]['seconds']:>8.2f}", flush=True)
        ratios = [row["ate_refined_m"] / row["ate_m"] for row in rows]
        results[name] = {"runs": rows, "ratio_median": float(np.median(ratios))}
    return results
