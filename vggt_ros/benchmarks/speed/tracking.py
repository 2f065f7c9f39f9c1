"""benchmark tracking: processor time of an image in the tracker, on recorded sequences."""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np

from vggt_ros.arguments import add_settings
from vggt_ros.benchmarks.recordings import load
from vggt_ros.config import Config
from vggt_ros.replay.run import run
from vggt_ros.slam import Slam
from vggt_ros.windows.frame import Frame, TrackedFrame
from vggt_ros.windows.load import Load

SHOWN = 20
"""Functions that a profile shows."""


def tracking(names: Sequence[str], config: Config, profile: bool = False) -> dict[str, Any]:
    """Print and return the processor time of an image, in milliseconds, in one thread; the windows' is left out.

    Args:
        names: of sequences in VGGT_ROS_DATA.
        config: all settings.
        profile: also print the functions that take most of it, by cProfile, which makes everything slower.

    Raises:
        SequenceError: a sequence is missing or cannot be read.

    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    results: dict[str, Any] = {}
    print(f"{'ms of one core':<22} {'images':>6} {'median':>7} {'mean':>6} {'90 %':>6} {'pose only':>9} "
          f"{'keyframes':>9}", flush=True)
    try:
        for name in names:
            profiler = cProfile.Profile() if profile else None
            with _timed(profiler) as (locating, selecting, is_keyframe):
                run(load(name), config, progress=sys.stderr.isatty())
            total, keyframe = 1e3 * (np.array(locating) + selecting), np.array(is_keyframe)
            row = {"images": len(total), "median": float(np.median(total)), "mean": float(total.mean()),
                   "p90": float(np.percentile(total, 90)), "pose": 1e3 * float(np.median(locating)),
                   "keyframe": float(np.median(total[keyframe])) if keyframe.any() else float("nan")}
            print(f"{name:<22} {row['images']:>6} {row['median']:>7.2f} {row['mean']:>6.2f} {row['p90']:>6.2f} "
                  f"{row['pose']:>9.2f} {row['keyframe']:>9.2f}", flush=True)
            results[name] = row
            if profiler is not None:
                pstats.Stats(profiler).sort_stats("tottime").print_stats(SHOWN)
    finally:
        cv2.setNumThreads(threads)
    return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark tracking`."""
    parser.add_argument("--sequences", nargs="+", default=["tum_fr1_xyz"], metavar="NAME", help="in VGGT_ROS_DATA")
    parser.add_argument("--profile", action="store_true", help="also print the functions that take most of it")
    add_settings(parser)
    parser.set_defaults(run=lambda options: (tracking(
        options.sequences, Config().parse(options.set), options.profile), True))


@contextmanager
def _timed(profiler: cProfile.Profile | None) -> Iterator[tuple[list[float], list[float], list[bool]]]:
    """Measure both halves of `Slam.track`: seconds of each image, and which became a keyframe."""
    locate, select, seconds = Slam.locate, Slam.select_keyframe, (list[float](), list[float]())
    is_keyframe: list[bool] = []

    def measured(which: int, function: Any, *arguments: Any) -> TrackedFrame:
        if profiler is not None:
            profiler.enable()
        began = time.thread_time()
        tracked: TrackedFrame = function(*arguments)
        seconds[which].append(time.thread_time() - began)
        if profiler is not None:
            profiler.disable()
        return tracked

    def measured_locate(slam: Slam, frame: Frame, search: bool = True) -> TrackedFrame:
        return measured(0, locate, slam, frame, search)

    def measured_select(slam: Slam, load: Load = Load()) -> TrackedFrame:
        tracked = measured(1, select, slam, load)
        is_keyframe.append(tracked.keyframe is not None)
        return tracked

    with patch.object(Slam, "locate", measured_locate), patch.object(Slam, "select_keyframe", measured_select):
        yield *seconds, is_keyframe
