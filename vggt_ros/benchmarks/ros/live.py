"""benchmark live: the node over DDS at the camera's rate: thinned keyframes, error, latencies, memory, start-up.

Only an idle machine gives figures that mean something: node, reconstructor, player and recorder share its cores.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from vggt_ros.benchmarks.ros.enlarged_bag import enlarge
from vggt_ros.benchmarks.ros.process_memory import MemoryWatch
from vggt_ros.evaluation.errors import EvaluationError, accuracy
from vggt_ros.ros.tools.bag_player import BagError
from vggt_ros.ros.tools.node_process import NodeError
from vggt_ros.ros.tools.recorder import Recording
from vggt_ros.ros.tools.session import BagTopics, bag_topics, record_node
from vggt_ros.ros.tools.start_up import StartUp, measure_start_up
from vggt_ros.sequences.bag import BagSequence
from vggt_ros.sequences.sequence import SequenceError, Truth
from vggt_ros.storage.files import FileError

PARAMETERS = Path(__file__).parents[3] / "config" / "slam.yaml"


class LiveError(FileError):
    """The node cannot be measured; the text says why."""


_LATENCIES = ("idle median", "idle p99", "busy median", "busy p99")
_COLUMNS = ("rate", "images with odometry", "keyframes", "thinned %", "covered %", "ATE m",
            *(f"{name} ms" for name in _LATENCIES), "map->odom gap p99 ms", "memory MB")


def live(bag: Path, rates: Sequence[float], runs: int = 1, factor: int = 1, start_ups: int = 0,
         settings: Sequence[str] = ()) -> dict[str, Any]:
    """Print the table; return all figures.

    Args:
        bag: a rosbag2 with images, and with poses if errors are wanted.
        rates: speeds at which it is played.
        runs: of each rate; each is shown.
        factor: by which the images are enlarged first.
        start_ups: how often the time from the start of the node to its first odometry is measured.
        settings: of the node, `key=value`.

    Raises:
        LiveError: the bag cannot be read, or the node failed.

    """
    try:
        return _live(bag, rates, runs, factor, start_ups, settings)
    except (BagError, NodeError, SequenceError) as error:
        raise LiveError(str(error)) from error


def _live(bag: Path, rates: Sequence[float], runs: int, factor: int, start_ups: int,
          settings: Sequence[str]) -> dict[str, Any]:
    # Apart from other ROS nodes on the machine and in the network.
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(1, 100)))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    changed = dict(item.split("=", 1) for item in settings)
    results: dict[str, Any] = {"bag": str(bag), "factor": factor, "runs": [], "start_ups": []}
    with tempfile.TemporaryDirectory(prefix="vggt_ros_live_") as scratch:
        if factor > 1:
            enlarge(bag, Path(scratch, "bag"), factor)
        sequence = BagSequence(Path(scratch, "bag") if factor > 1 else bag)
        topics = bag_topics(sequence.path, sequence.image_topic)
        for _ in range(start_ups):
            found = measure_start_up(sequence.path, topics, PARAMETERS, Path(scratch, "node.log"))
            results["start_ups"].append(vars(found))
            print(_start_up_line(found), flush=True)
        if rates:
            print("  ".join(_COLUMNS), flush=True)
        for rate in rates:
            for _ in range(runs):
                row = _run(sequence.path, topics, sequence.truth, rate, changed, Path(scratch, "node.log"))
                results["runs"].append(row)
                print("  ".join(f"{_text(row[name]):>{len(name)}}" for name in _COLUMNS), flush=True)
    if len(results["start_ups"]) > 1:
        results["start_up_s"] = median(found["odometry_s"] for found in results["start_ups"])
    return results


def _run(bag: Path, topics: BagTopics, truth: Truth | None, rate: float, settings: dict[str, str],
         log: Path) -> dict[str, Any]:
    """Return the figures of one run."""
    watches: list[MemoryWatch] = []
    try:
        recording = record_node(bag, topics, PARAMETERS, log, rate=rate, settings=settings,
                                report_progress=lambda line: None, on_start=lambda pid: watches.append(
                                    MemoryWatch(pid)))
    finally:
        for watch in watches:
            watch.close()
    status, keyframes = recording.status, int(recording.status.get("keyframes", 0))
    covered, error = _accuracy(recording, truth)
    return {"rate": rate, "images with odometry": len(set(recording.odometry)) / topics.images,
            "keyframes": keyframes, "thinned %": 100 * int(status.get("thinned", 0)) / max(keyframes, 1),
            "covered %": 100 * covered, "ATE m": error,
            **{f"{name} ms": float(status.get(f"latency {name} ms", "nan")) for name in _LATENCIES},
            "map->odom gap p99 ms": gap_p99(recording.map_odom_arrivals), "memory MB": watches[0].peak_mb,
            "memory of each process MB": watches[0].parts_mb, "status": dict(status),
            "seconds a window": median(recording.window_seconds.values()) if recording.window_seconds else None}


def gap_p99(arrivals: Sequence[int]) -> float:
    """Return the 99th percentile of the gaps between arrivals, nanoseconds, in milliseconds; NaN if there are none."""
    gaps = np.diff(np.sort(np.array(arrivals, np.int64)))
    return float(np.quantile(gaps, 0.99, method="inverted_cdf") / 1e6) if len(gaps) else float("nan")


def _accuracy(recording: Recording, truth: Truth | None) -> tuple[float, float]:
    """Return the covered part of the true path, and the error of the keyframes, meters; NaN if not known."""
    try:
        fit = None if truth is None else accuracy(recording.stamps, recording.map_camera, *truth)
    except EvaluationError:
        fit = None
    return (float("nan"), float("nan")) if fit is None else (fit.coverage, fit.ate_rmse)


def _start_up_line(found: StartUp) -> str:
    return "seconds from the start of the process: " + ", ".join(
        f"{name.removesuffix('_s')} {value:.2f}" for name, value in vars(found).items())


def _text(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) and abs(value) < 1 else f"{value:.4g}"
