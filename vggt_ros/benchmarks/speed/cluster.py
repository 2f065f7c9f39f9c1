"""benchmark cluster: a long recording on a simulated cluster, whose workers sleep for the time of a window."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from vggt_ros.arguments import count, new_file, not_negative, positive
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.workers.ahead import AheadReconstructor
from vggt_ros.workers.pool import Pool
from vggt_ros.workers.requests import Answer, Request

_BEND = 1.15
"""Wall time over windows x time / workers beyond which something else limits."""


class SleepingWorker:
    """A worker that sleeps, and returns a window without content; see `Worker`."""

    name, reason, carries, adjusted = "sleeping", "simulated", "never", True

    def __init__(self, seconds: float) -> None:
        """Sleep for `seconds` for each window."""
        self._seconds = seconds

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the camera's own size."""
        return camera.width, camera.height

    def answer(self, request: Request) -> Answer:
        """Return an empty window after a while."""
        time.sleep(self._seconds)
        one = np.zeros((1, 1, 1), np.float32)
        return Answer(WindowGeometry((request.window.ids[0],), np.eye(4)[None], np.eye(3)[None], one, one))

    def cancel(self) -> None:
        """Nothing is to be done."""

    close = cancel


def cluster(counts: Sequence[int], windows: int, window_seconds: float, sequential_seconds: float, speedup: float,
            picture: Path | None = None) -> dict[str, Any]:
    """Print a table of wall times by the number of workers, in the time of the recording; return all figures.

    Args:
        counts: numbers of workers.
        windows: number of windows.
        window_seconds: time of a window on a worker.
        sequential_seconds: time of what this process does for each window: tracking, alignment, the graph.
        speedup: by which factor all times are shortened.
        picture: where to draw the curve, PNG.

    """
    results: dict[str, Any] = {}
    print(f"{'workers':>7} {'ideal s':>9} {'limit s':>9} {'wall s':>9} {'wall/ideal':>10}", flush=True)
    for number in counts:
        wall = _run(number, windows, window_seconds / speedup, sequential_seconds / speedup) * speedup
        ideal = windows * window_seconds / number
        limit = max(ideal, windows * sequential_seconds)
        results[str(number)] = {"wall_s": wall, "ideal_s": ideal, "limit_s": limit}
        print(f"{number:>7} {ideal:>9.0f} {limit:>9.0f} {wall:>9.0f} {wall / ideal:>10.2f}"
              + ("  limited by the sequential part" if wall > _BEND * ideal else ""), flush=True)
    if picture is not None:
        _draw(picture, results)
    return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark cluster`."""
    parser.add_argument("--workers", type=count, nargs="+", default=[1, 2, 4, 8, 16, 32], metavar="N")
    parser.add_argument("--windows", type=count, default=2400, help="number of windows (default 2400: an hour's drive)")
    parser.add_argument("--window-seconds", type=positive, default=6.0, help="time of a window on a worker (default 6)")
    parser.add_argument("--sequential-seconds", type=not_negative, default=0.8,
                        help="time of tracking, alignment and graph for each window (default 0.8)")
    parser.add_argument("--speedup", type=positive, default=100.0, help="all times are shortened by this (default 100)")
    parser.add_argument("--picture", type=new_file, metavar="FILE", help="draw the curve there, as PNG")
    parser.set_defaults(run=lambda options: (cluster(
        options.workers, options.windows, options.window_seconds, options.sequential_seconds, options.speedup,
        options.picture), True))


def _run(count: int, windows: int, window_seconds: float, sequential_seconds: float) -> float:
    """Return the wall time of windows on sleeping workers, of which as many are expected as in a replay."""
    pool = Pool(lambda: SleepingWorker(window_seconds), count)
    ahead, image = AheadReconstructor(pool), np.zeros((2, 2, 3), np.uint8)
    formed = [Window(number, (Keyframe(number, number, image, np.eye(3)),)) for number in range(windows)]
    began, expected = time.perf_counter(), 0
    for window in formed:
        while expected < windows and not ahead.is_full:
            ahead.expect(formed[expected])
            expected += 1
        ahead.reconstruct(window)
        time.sleep(sequential_seconds)
    seconds = time.perf_counter() - began
    pool.close()
    return seconds


def _draw(picture: Path, results: dict[str, Any]) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt
    figure, axes = plt.subplots(figsize=(6, 4))
    counts = [int(count) for count in results]
    for key, style, label in (("ideal_s", "--", "windows x time / workers"),
                              ("limit_s", ":", "with the sequential part"), ("wall_s", "o-", "measured")):
        axes.loglog(counts, [row[key] for row in results.values()], style, label=label)
    axes.set_xlabel("workers")
    axes.set_ylabel("wall time, s")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=100)
    plt.close(figure)
