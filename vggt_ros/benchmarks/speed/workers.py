"""benchmark workers: `replay` with one worker, with several, and with several of which one is killed in the middle."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vggt_ros.arguments import add_settings, count
from vggt_ros.benchmarks.recordings import load
from vggt_ros.config import Config
from vggt_ros.replay.run import Run, run
from vggt_ros.workers.opening import open_pool
from vggt_ros.workers.pool import Pool
from vggt_ros.workers.processes import ProcessWorker
from vggt_ros.workers.requests import Answer, Request
from vggt_ros.workers.worker import Worker


def workers(recordings: Sequence[str], count: int, address: str | None = None, config: Config | None = None,
            open_workers: Callable[[Config, int, str | None], Pool] = open_pool) -> dict[str, Any]:
    """Print a table of wall times, and whether the results are the same to the bit; return all figures by recording.

    Args:
        recordings: names.
        count: number of workers, compared with one.
        address: of a Ray cluster, as for `replay --ray`; processes on this machine without.
        config: the settings.
        open_workers: called with the settings, the number of workers and the address.

    Raises:
        SequenceError: a recording is not there.
        ConfigError: the reconstructor cannot run by workers; Ray is missing, or there is no cluster.

    """
    config = config or Config()
    results: dict[str, Any] = {}
    print(f"{'recording':<24} {'workers':>9} {'wall s':>7} {'ratio':>6} {'windows':>8} {'sent again':>10} "
          f"{'corrected':>9} {'load':>5}  same to the bit", flush=True)
    for name in recordings:
        rows: list[dict[str, Any]] = []
        first: Run | None = None
        for size, killed in ((1, False), (count, False), (count, True)):
            load_before, pool = os.getloadavg()[0], open_workers(config, size, address)
            if killed and first is not None and (one := pool.workers[0]) is not None:
                pool.workers[0] = _Dying(one, max(2, len(first.updates) // (2 * size)),
                                         first.seconds / max(1, len(first.updates)))
            with contextlib.closing(pool):
                found = run(load(name), config, progress=sys.stderr.isatty(), workers=pool)
            first = first or found
            different, ratio = differences(first, found), found.seconds / first.seconds
            rows.append({"workers": size, "killed": killed, "wall_s": found.seconds, "windows": len(found.updates),
                         "ratio": ratio, "differences": different, "load": load_before, "answered": pool.answered,
                         **{key: found.workers[key] for key in ("ahead", "unexpected", "retries", "corrections")}})
            text = f"{size}, killed" if killed else str(size)
            print(f"{name:<24} {text:>9} {found.seconds:>7.1f} {ratio:>6.2f} {len(found.updates):>8} "
                  f"{found.workers['retries']:>10} {found.workers['corrections']:>9} {load_before:>5.1f}  "
                  + (f"no: {', '.join(different)}" if different else "yes"), flush=True)
        results[name] = rows
    return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark workers`."""
    parser.add_argument("--recordings", nargs="+", default=["kitti07_first160", "hololens_dvmvs_000"], metavar="NAME",
                        help="in VGGT_ROS_DATA, or demo_room")
    parser.add_argument("--workers", type=count, default=2, metavar="N", help="compared with one (default 2)")
    parser.add_argument("--ray", metavar="ADDRESS", help="on a Ray cluster, as `replay --ray`; `local` for one on "
                        "this machine")
    add_settings(parser)
    parser.set_defaults(run=lambda options: (workers(
        options.recordings, options.workers, options.ray, Config().parse(options.set)), True))


def differences(one: Run, other: Run) -> list[str]:
    """Return in what two runs differ: arrays of the solution, depth, poses of images, counters; empty if in nothing."""
    first, second = one.slam.solution, other.slam.solution
    found = [name for name in ("ids", "stamps", "submaps", "windows", "map_camera", "scale")
             if not np.array_equal(getattr(first, name), getattr(second, name))]
    if "ids" not in found and not all(
            np.array_equal(first.keyframes[k].depth, second.keyframes[k].depth, equal_nan=True)
            for k in first.ids.tolist()):
        found.append("depth")
    if not all(_poses_equal(a, b) for a, b in zip(one.frames, other.frames, strict=False)) \
            or len(one.frames) != len(other.frames):
        found.append("poses of images")
    return found + (["counters"] if one.slam.counts != other.slam.counts else []) + ["failures"] * bool(other.failures)


def _poses_equal(one: Any, other: Any) -> bool:
    return (one.stamp, one.state, one.keyframe) == (other.stamp, other.state, other.keyframe) and all(
        (a is None) == (b is None) and (a is None or np.array_equal(a, b))
        for a, b in ((one.map_camera, other.map_camera), (one.odom_camera, other.odom_camera)))


class _Dying:
    """A worker that is killed `seconds` after it was given a request: the one with the number `at`, counted from 1.

    A process is stopped meanwhile, so that it never answers before it is killed.
    """

    def __init__(self, worker: Worker, at: int, seconds: float) -> None:
        self._worker, self._left, self._seconds = worker, at, seconds
        self.name, self.reason, self.carries, self.adjusted = (worker.name, worker.reason, worker.carries,
                                                               worker.adjusted)
        self.image_size, self.cancel, self.close = worker.image_size, worker.cancel, worker.close

    def answer(self, request: Request) -> Answer:
        self._left -= 1
        if not self._left:
            pid = self._worker.pid if isinstance(self._worker, ProcessWorker) else None
            if pid is None:
                threading.Timer(self._seconds, self._worker.cancel).start()  # of an actor of Ray: kills it
            else:
                os.kill(pid, signal.SIGSTOP)
                threading.Timer(self._seconds, os.kill, (pid, signal.SIGKILL)).start()
        return self._worker.answer(request)
