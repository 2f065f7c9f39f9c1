"""benchmark speed: what `replay` costs here and in another state of this repository, alternating in one run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from vggt_ros.arguments import add_settings, count
from vggt_ros.benchmarks.recordings import data_folder
from vggt_ros.benchmarks.speed.image_folders import write_folder
from vggt_ros.storage.files import FileError
from vggt_ros.synthetic import demo_sequence

ROOT = Path(__file__).parents[3]
SPEED_SEQUENCES = ("tum_fr1_xyz", "euroc_mh01_start", "kitti07_first160", "hololens_dvmvs_000", "demo_room")
"""Those that are measured if no others are named."""


class SpeedError(FileError):
    """A state of the repository cannot be measured; the text says why."""


@dataclass(frozen=True)
class Cost:
    """One run of `replay`.

    Attributes:
        cpu_s: processor time of the whole process tree.
        memory_mb: largest resident memory of one of its processes.
        ate_m: error of the keyframes, NaN without ground truth.
        images: of the sequence.

    """

    cpu_s: float
    memory_mb: float
    ate_m: float
    images: int


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Check a revision out into a folder of its own, and remove it afterwards; raises SpeedError."""
    if not (ROOT / ".git").exists():
        raise SpeedError(f"{ROOT}: not a git repository, so there is nothing to compare with")
    with tempfile.TemporaryDirectory(prefix="vggt_ros_speed_") as folder:
        tree = Path(folder) / "tree"
        done = subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), revision],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise SpeedError(f"--against {revision}: {done.stderr.strip()}")
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)], check=False)


def replay_cost(tree: Path, sequence: Path, settings: Sequence[str] = ()) -> Cost:
    """Run `replay` of a checkout on a sequence with the present environment; raises SpeedError."""
    with tempfile.TemporaryDirectory(prefix="vggt_ros_speed_") as folder:
        words = [sys.executable, str(tree / "dev" / "executable.py"), "replay", str(sequence), "--output", folder,
                 "--seed", "0", *(word for setting in settings for word in ("--set", setting))]
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(words, cwd=tree, env=environment, stdout=log, stderr=subprocess.STDOUT)
            # Of this child alone, with the children that it has waited for.
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            last = (Path(folder) / "log").read_text().strip().splitlines()[-1:]
            raise SpeedError(f"{tree.name}: replay of {sequence} failed: {' '.join(last)}")
        report: dict[str, Any] = json.loads((Path(folder) / "report.json").read_text())
    ate = report["ate_rmse_m"]
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, float("nan") if ate is None else ate,
                report["images"])


def speed(names: Sequence[str], against: str, rounds: int = 1, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Print the table; return all figures.

    Args:
        names: of sequences in VGGT_ROS_DATA; `demo_room` is rendered first, which is not counted.
        against: revision to compare with, as git names it.
        rounds: runs of each state, alternating; medians are shown.
        settings: of both, `key=value`.

    Raises:
        SpeedError: the revision does not exist, a sequence is missing, or a run fails.

    """
    results: dict[str, Any] = {}
    print(f"{'':<22} {'CPU s an image':>20} {'':>6} {'memory MB':>14} {'ATE m':>18}\n"
          f"{'sequence':<22} {'before':>10} {'now':>9} {'ratio':>6} {'before':>7} {'now':>6} {'before':>9} {'now':>8} "
          f"{'ratio':>6}", flush=True)
    with checked_out(against) as tree, tempfile.TemporaryDirectory(prefix="vggt_ros_speed_") as folder:
        for name in names:
            path = data_folder() / name
            if name == "demo_room":
                path = Path(folder) / name
                write_folder(demo_sequence(), path)
            if not path.exists():
                raise SpeedError(f"{path}: there is no such sequence")
            costs: dict[str, list[Cost]] = {"before": [], "now": []}
            for _ in range(rounds):
                for state, root in (("before", tree), ("now", ROOT)):
                    costs[state].append(replay_cost(root, path, settings))
            before, now = (Cost(*(median(getattr(cost, field) for cost in costs[state])
                                  for field in ("cpu_s", "memory_mb", "ate_m", "images"))) for state in costs)
            print(f"{name:<22} {before.cpu_s / before.images:>10.3f} {now.cpu_s / now.images:>9.3f} "
                  f"{now.cpu_s / before.cpu_s:>6.2f} {before.memory_mb:>7.0f} {now.memory_mb:>6.0f} "
                  f"{before.ate_m:>9.4f} {now.ate_m:>8.4f} {now.ate_m / before.ate_m:>6.2f}", flush=True)
            results[name] = {state: [asdict(cost) for cost in runs] for state, runs in costs.items()}
    return {"against": against, "sequences": results}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark speed`."""
    parser.add_argument("--against", required=True, metavar="REV", help="revision to compare with, as git names it")
    parser.add_argument("--sequences", nargs="+", default=list(SPEED_SEQUENCES), metavar="NAME", help="in "
                        f"VGGT_ROS_DATA, or demo_room (default {' '.join(SPEED_SEQUENCES)})")
    parser.add_argument("--rounds", type=count, default=1, help="runs of each state, alternating (default 1)")
    add_settings(parser, "change a setting, in both")
    parser.set_defaults(run=lambda options: (speed(
        options.sequences, options.against, options.rounds, options.set), True))
