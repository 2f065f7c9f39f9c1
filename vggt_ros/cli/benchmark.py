"""benchmark: the numbers that the README gives, from the command that it names."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence as Sequence_
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.benchmarks import fusion
from vggt_ros.benchmarks.updates import updates
from vggt_ros.cli import benchmark_scale, benchmark_vggt
from vggt_ros.cli.replay_output import report
from vggt_ros.cli.replay_run import run
from vggt_ros.config import Config
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import Sequence
from vggt_ros.settings import ConfigError
from vggt_ros.slam import Slam
from vggt_ros.storage.files import FileError
from vggt_ros.synthetic import SceneReconstructor, demo_sequence, laps, pinhole, room
from vggt_ros.windows.keyframe import Keyframe, Window

REPOSITORY = Path(__file__).parents[2]
SEQUENCES = ("demo_room", "tum_fr1_xyz", "euroc_mh01_start", "kitti07_first160", "hololens_dvmvs_000")


def data_folder() -> Path:
    """Return the folder of recorded sequences: VGGT_ROS_DATA, else `../shared/data` beside the repository."""
    return Path(os.environ.get("VGGT_ROS_DATA") or REPOSITORY.parent / "shared" / "data")


def load(name: str) -> Sequence:
    """Return the demo, or the recorded sequence of that name; raises SequenceError if it is not there."""
    return demo_sequence() if name == "demo_room" else open_sequence(data_folder() / name)


def accuracy(names: Sequence_[str] = SEQUENCES, seeds: int = 5, config: Config | None = None) -> dict[str, Any]:
    """Replay sequences with seeds 0, 1, ... and print a table; return all figures by sequence.

    Raises:
        SequenceError: a sequence is not there.

    """
    config = config or Config()
    results: dict[str, Any] = {}
    print(f"{'sequence':<20} {'ATE median':>11} {'worst':>8} {'of path':>8} {'coverage':>9} {'images per':>10} "
          f"{'seconds':>8} {'submaps':>8}\n{'':<20} {'m':>11} {'m':>8} {'%':>8} {'%':>9} {'keyframe':>10} "
          f"{'a window':>8} {'most':>8}", flush=True)
    for name in names:
        figures = [report(run(load(name), config.replace({"seed": seed}), progress=sys.stderr.isatty()))
                   for seed in range(seeds)]
        errors = [f["ate_rmse_m"] if f["ate_rmse_m"] is not None else float("inf") for f in figures]

        def median(key: str, figures: list[dict[str, Any]] = figures) -> float:
            return float(np.median([np.nan if f[key] is None else f[key] for f in figures]))

        print(f"{name:<20} {np.median(errors):>11.4f} {max(errors):>8.4f} {median('ate_percent_of_path'):>8.2f} "
              f"{100 * median('coverage'):>9.1f} {median('images_per_keyframe'):>10.1f} "
              f"{median('seconds_a_window_median'):>8.2f} {max(f['submaps'] for f in figures):>8}", flush=True)
        results[name] = {"ate_median_m": float(np.median(errors)), "ate_worst_m": max(errors), "runs": figures}
    return results


def memory(keyframes: int = 1000, lap: int = 200, config: Config | None = None) -> dict[str, float]:
    """Map a room over and over again from exact geometry and return what that costs; prints it too.

    Windows go straight to `Slam.step`, laps of `lap` keyframes each, so that the space is bounded and only what is
    kept of keyframes, windows and map grows; beyond `map.max_keyframes` no more keyframes are kept.
    """
    config = config or Config()
    scene = room()
    poses = laps(lap, laps=1.0)
    stamps = np.arange(keyframes) * 10**8
    truth = poses[np.arange(keyframes) % lap]
    oracle = SceneReconstructor(scene, stamps.tolist(), truth, depth_width=config.multiview.depth_width)
    slam = Slam(config, oracle)
    view, shape = pinhole(320, 240), (320, 240)
    images = [scene.render(matrix, view, shape)[0] for matrix in poses[:keyframes]]  # before anything is measured
    size, overlap = config.windows.size, config.windows.overlap
    made: list[Keyframe] = []
    resident: dict[int, float] = {}
    window = 0
    for index in range(keyframes):
        made.append(Keyframe(index, int(stamps[index]), images[index % lap], view))
        if len(made) == size:
            slam.step(Window(window, tuple(made), tuple(k.id for k in made[:overlap]) if window else ()))
            made, window = made[-overlap:], window + 1
        if (index + 1) % (keyframes // 2) == 0:
            resident[index + 1] = _resident()
            print(f"{index + 1} keyframes: {resident[index + 1]:.1f} MB resident, {len(slam.map_cloud())} points",
                  flush=True)
    half = keyframes // 2
    growth = (resident[2 * half] - resident[half]) / half
    print(f"{growth:.3f} MB a keyframe, {100 * (resident[2 * half] / resident[half] - 1):.1f} % in the second half; "
          f"{len(slam.solution)} keyframes kept, {slam.counts.released} let go, {slam.counts.loops} loops")
    return {"resident_half_mb": resident[half], "resident_end_mb": resident[2 * half], "mb_a_keyframe": growth}


def fuse(scenes: Sequence_[str] = (), seeds: int = 10, windows: int = 40, false: Sequence_[float] = (0.0, 1.0, 2.0),
         picture: Path | None = None) -> dict[str, Any]:
    """Compare ways to fuse windows, print tables and return all figures; without `scenes`, on all that are there.

    Raises:
        ConfigError: a scene is not known.

    """
    folder = data_folder()
    known = fusion.scenes(folder)
    if unknown := [name for name in scenes if name not in known]:
        raise ConfigError(f"no scene {unknown[0]!r}; there are {', '.join(known)} (recorded ones in {folder})")
    checks = fusion.exact(windows)
    print(f"windows without errors\n{fusion.table(checks)}\n", flush=True)
    results = fusion.fusion(list(scenes or known), seeds, windows, false, folder)
    figures = fusion.summary(results)
    print(fusion.table(results))
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{name}: {', '.join(f'{scene} {ratio:.3f}' for scene, ratio in value.items())}")
        elif name != "runs" and value is not None:
            print(f"{name}: {value:.3f}")
    if picture:
        fusion.draw(picture, results)
    return figures


def _resident() -> float:
    """Return this process's resident memory in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(args: list[str] | None = None) -> int:
    """Run the benchmark named on the command line."""
    options = _parser().parse_args(args)
    try:
        if options.command == "accuracy":
            figures = accuracy(options.sequences, options.seeds, Config().parse(options.set))
        elif options.command == "memory":
            figures = memory(options.keyframes, config=Config().parse(options.set))
        elif options.command == "scale":
            runs = [benchmark_scale.rendered_drive(name == "rendered_uneven") if name.startswith("rendered_")
                    else (load(name), None) for name in options.sequences]
            figures = benchmark_scale.scale(runs, options.sources, Config().parse(options.set))
        elif options.command == "fusion":
            figures = fuse(options.scenes, options.seeds, options.windows, options.false, options.picture)
        elif options.command == "updates":
            figures = updates(options.windows)
        elif options.command == "node":  # needs ROS, the others do not
            figures = importlib.import_module("vggt_ros.ros.benchmark").node_cost()
        else:
            figures = benchmark_vggt.vggt(options.frames, options.overlap, tuple(options.size), options.dtype,
                                          options.network, options.rounds, options.repeat, options.compile,
                                          options.same_kernels)
    except (benchmark_vggt.BenchmarkError, ConfigError, FileError, ImportError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark", description="Measures accuracy, fusion, the node's cost, memory "
                                     "or the network's speed.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("accuracy", help="trajectory error on recorded and rendered sequences; needs "
                                  "VGGT_ROS_DATA, except for demo_room")
    command.add_argument("--seeds", type=int, default=5, help="runs of each sequence (default 5)")
    command.add_argument("--sequences", nargs="+", default=list(SEQUENCES), metavar="NAME",
                         help=f"of {', '.join(SEQUENCES)} or others in VGGT_ROS_DATA")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    command = commands.add_parser("scale", help="how near the map's unit comes to the meter, from each source; needs "
                                  "VGGT_ROS_DATA, except for rendered_drive")
    command.add_argument("--sequences", nargs="+", default=["rendered_drive"], metavar="NAME",
                         help="rendered_drive or rendered_uneven, which have every source, or of VGGT_ROS_DATA")
    command.add_argument("--sources", nargs="+", default=["odometry", "depth"], choices=benchmark_scale.SOURCES)
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    commands.add_parser("node", help="what the node costs an image outside reconstructor and tracker; needs ROS 2")
    command = commands.add_parser("memory", help="growth of resident memory in a bounded space; needs Linux")
    command.add_argument("--keyframes", type=int, default=1000, help="of the run (default 1000)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    command = commands.add_parser("fusion", help="ways to fuse windows, on windows made from ground truth; recorded "
                                  "ways need VGGT_ROS_DATA")
    command.add_argument("--scenes", nargs="+", default=[], metavar="NAME", help="default: all")
    command.add_argument("--seeds", type=int, default=10, help="runs of each scene (default 10)")
    command.add_argument("--windows", type=int, default=40, help="of a run (default 40; up to 1000)")
    command.add_argument("--false", type=float, nargs="+", default=[0.0, 1.0, 2.0], metavar="RATIO",
                         help="false loops for a true one (default 0 1 2)")
    command.add_argument("--picture", type=Path, metavar="FILE", help="write a PNG of all errors there")
    command = commands.add_parser("updates", help="how long an update of the pose graph takes, and others wait for it")
    command.add_argument("--windows", type=int, default=1000, help="of the run (default 1000)")
    benchmark_vggt.add_arguments(commands.add_parser(
        "vggt", help="latency, memory and throughput of the network beside the published way to run it; needs torch, "
        "but no weights"))
    for command in commands.choices.values():
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
