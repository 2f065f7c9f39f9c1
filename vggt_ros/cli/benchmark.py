"""benchmark: measures every figure in the documentation; each is stated with its command."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from vggt_ros.arguments import count, given_path, new_file, new_folder, not_negative, positive
from vggt_ros.benchmarks import gpu_visit, scale, vggt, window_cost
from vggt_ros.benchmarks.accuracy import accuracy
from vggt_ros.benchmarks.cluster import cluster
from vggt_ros.benchmarks.disturbances import DISTURBANCES
from vggt_ros.benchmarks.fusion_report import compare_schemes
from vggt_ros.benchmarks.grids import grids
from vggt_ros.benchmarks.maps import maps
from vggt_ros.benchmarks.memory import memory
from vggt_ros.benchmarks.merging import merging
from vggt_ros.benchmarks.recordings import SEQUENCES, load
from vggt_ros.benchmarks.robustness.arguments import add_arguments as add_robustness_arguments
from vggt_ros.benchmarks.speed import SPEED_SEQUENCES, speed
from vggt_ros.benchmarks.tracking import tracking
from vggt_ros.benchmarks.updates import updates
from vggt_ros.benchmarks.workers import workers
from vggt_ros.cli.interrupts import ends_in_order
from vggt_ros.config import Config
from vggt_ros.settings import ConfigError
from vggt_ros.storage.files import FileError


@ends_in_order(vggt.BenchmarkError, ConfigError, FileError, ImportError, OSError)
def main(args: list[str] | None = None, prog: str = "benchmark") -> int:
    """Run the benchmark named on the command line."""
    options, within = _parser(prog).parse_args(args), True
    if options.command == "accuracy":
        figures = accuracy(options.sequences, options.seeds, Config().parse(options.set))
    elif options.command == "map":
        figures = maps(options.sequences, Config().parse(options.set), options.pictures)
    elif options.command == "merge":
        figures = merging(options.recordings, Config().parse(options.set))
    elif options.command == "grid":
        figures = grids(options.sequences, Config().parse(options.set))
    elif options.command == "cluster":
        figures = cluster(options.workers, options.windows, options.window_seconds, options.sequential_seconds,
                          options.speedup, options.picture)
    elif options.command == "workers":
        figures = workers(options.recordings, options.workers, options.ray, Config().parse(options.set))
    elif options.command == "memory":
        figures = memory(options.keyframes, config=Config().parse(options.set))
    elif options.command == "scale":
        runs = [scale.rendered_drive(name == "rendered_uneven") if name.startswith("rendered_")
                else (load(name), None) for name in options.sequences]
        figures = scale.scale(runs, options.sources, Config().parse(options.set))
    elif options.command == "fusion":
        figures = compare_schemes(options.scenes, options.seeds, options.windows, options.false, options.picture)
    elif options.command == "updates":
        figures = updates(options.windows)
    elif options.command == "node":  # needs ROS, the others do not
        figures = importlib.import_module("vggt_ros.benchmarks.node").node_cost()
    elif options.command == "tracking":
        figures = tracking(options.sequences, Config().parse(options.set), options.profile)
    elif options.command == "live":  # the same
        figures = importlib.import_module("vggt_ros.benchmarks.live").live(
            options.bag, options.rates, options.runs, options.enlarge, options.start_ups, options.set)
    elif options.command == "speed":
        figures = speed(options.sequences, options.against, options.rounds, options.set)
    elif options.command == "recorded":  # torch is imported where it is needed
        report = importlib.import_module("vggt_ros.benchmarks.recorded_report")
        figures, within = report.recorded(options.folder, options.at_most and tuple(options.at_most),
                                          Config().replace({"map.kept_width": 100}).parse(options.set))
    elif options.command == "refinement":
        benchmark = importlib.import_module("vggt_ros.benchmarks.refinement")
        figures = benchmark.refinement(options.sequences, options.seeds, not options.uncalibrated,
                                       Config().parse(options.set))
    elif options.command == "gpu_visit":
        figures = gpu_visit.gpu_visit(options.network, options.device, options.budget, options.sections,
                                      options.reference)
    elif options.command == "window":
        figures = window_cost.window_cost(options.networks, options.cores, options.frames, options.rounds,
                                          options.set)
    elif options.command == "transport":  # the same
        figures = importlib.import_module("vggt_ros.benchmarks.transport").transport(options.images, options.rate)
    elif options.command == "rate":
        figures = importlib.import_module("vggt_ros.benchmarks.image_rate").image_rate(
            tuple(options.size), options.rate, options.seconds, tuple(options.reduced), options.domain)
    elif options.command == "robustness":  # the same
        figures, within = importlib.import_module("vggt_ros.benchmarks.robustness.run").robustness(options)
    else:
        figures = vggt.vggt(options.frames, options.overlap, tuple(options.size), options.dtype,
                            options.network, options.rounds, options.repeat, options.compile,
                            options.same_kernels)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int((options.command == "gpu_visit" and bool(figures["not_done"])) or not within)


def _add_settings(command: argparse.ArgumentParser, text: str = "change a setting") -> None:
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def _add_sequences_with_depth(command: argparse.ArgumentParser) -> None:
    command.add_argument("--sequences", nargs="+", default=[], metavar="NAME",
                         help="default: demo_room and all in VGGT_ROS_DATA with depth and ground truth")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Measures accuracy, maps, fusion, the node's cost, memory "
                                     "or the network's speed.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("accuracy", help="trajectory error on recorded and rendered sequences; needs "
                                  "VGGT_ROS_DATA, except for demo_room")
    command.add_argument("--seeds", type=count, default=5, help="runs of each sequence (default 5)")
    command.add_argument("--sequences", nargs="+", default=list(SEQUENCES), metavar="NAME",
                         help=f"of {', '.join(SEQUENCES)} or others in VGGT_ROS_DATA; NAME:CHANGE makes one harder by "
                         f"{', '.join(DISTURBANCES)}, uncalibratedN (N degrees are assumed, or 65) or stepN "
                         "(every N-th image)")
    _add_settings(command)
    command = commands.add_parser("map", help="errors of the dense map on recorded sequences with a depth camera, and "
                                  "on rendered ones")
    _add_sequences_with_depth(command)
    command.add_argument("--pictures", type=new_folder, metavar="FOLDER", help="draw each map as a camera saw it, also "
                         "of sequences without ground truth")
    _add_settings(command)
    command = commands.add_parser("merge", help="trajectory error of recordings that are cut, mapped in parts and "
                                  "merged, against maps made in one; needs VGGT_ROS_DATA, except for demo_room")
    command.add_argument("--recordings", nargs="+", default=["tum_fr1_xyz:3", "hololens_dvmvs_000:2"],
                         metavar="NAME:PARTS:COMMON", help="in VGGT_ROS_DATA, into how many parts each is cut, and how "
                         "many images neighbors have in common (0 if left out); NAME+NAME: different recordings, whose "
                         "maps must stay apart")
    _add_settings(command)
    command = commands.add_parser("grid", help="occupancy grid against the one that a depth camera and the true poses "
                                  "give; needs VGGT_ROS_DATA, except for demo_room")
    _add_sequences_with_depth(command)
    _add_settings(command)
    command = commands.add_parser("cluster", help="wall time of a long recording on simulated workers, which sleep")
    command.add_argument("--workers", type=count, nargs="+", default=[1, 2, 4, 8, 16, 32], metavar="N")
    command.add_argument("--windows", type=count, default=2400,
                         help="number of windows (default 2400: an hour's drive)")
    command.add_argument("--window-seconds", type=positive, default=6.0,
                         help="time of a window on a worker (default 6)")
    command.add_argument("--sequential-seconds", type=not_negative, default=0.8,
                         help="time of tracking, alignment and graph for each window (default 0.8)")
    command.add_argument("--speedup", type=positive, default=100.0,
                         help="all times are shortened by this (default 100)")
    command.add_argument("--picture", type=new_file, metavar="FILE", help="draw the curve there, as PNG")
    command = commands.add_parser("workers", help="wall time of `replay` with one worker, with several, and with "
                                  "several of which one is killed, and whether the results are the same to the bit; "
                                  "needs VGGT_ROS_DATA and an idle machine")
    command.add_argument("--recordings", nargs="+", default=["kitti07_first160", "hololens_dvmvs_000"], metavar="NAME",
                         help="in VGGT_ROS_DATA, or demo_room")
    command.add_argument("--workers", type=count, default=2, metavar="N", help="compared with one (default 2)")
    command.add_argument("--ray", metavar="ADDRESS", help="on a Ray cluster, as `replay --ray`; `local` for one on "
                         "this machine")
    _add_settings(command)
    command = commands.add_parser("scale", help="error of metric scale by each source; needs VGGT_ROS_DATA, except for "
                                  "rendered_drive and rendered_uneven")
    command.add_argument("--sequences", nargs="+", default=["rendered_drive"], metavar="NAME",
                         help="rendered_drive or rendered_uneven, which have all sources, or names in VGGT_ROS_DATA")
    command.add_argument("--sources", nargs="+", default=["odometry", "depth"], choices=scale.SOURCES)
    _add_settings(command)
    command = commands.add_parser("speed", help="processor time, memory and error of `replay`, here and in another "
                                  "state of this repository; needs VGGT_ROS_DATA and a git checkout")
    command.add_argument("--against", required=True, metavar="REV", help="revision to compare with, as git names it")
    command.add_argument("--sequences", nargs="+", default=list(SPEED_SEQUENCES), metavar="NAME", help="in "
                         f"VGGT_ROS_DATA, or demo_room (default {' '.join(SPEED_SEQUENCES)})")
    command.add_argument("--rounds", type=count, default=1, help="runs of each state, alternating (default 1)")
    _add_settings(command, "change a setting, in both")
    command = commands.add_parser("recorded", help="windows of recorded outputs of VGGT-1B, fused, with and without "
                                  "refinement, against COLMAP")
    command.add_argument("folder", type=given_path, help="with images/, run_*.npz and colmap.txt")
    command.add_argument("--at-most", type=float, nargs=2, metavar=("CENTERS_PERCENT", "DEGREES"),
                         help="exit status 1 if the refined, fused windows are farther off")
    _add_settings(command)
    command = commands.add_parser("refinement", help="trajectory error of windows with a network's errors, with and "
                                  "without refinement; needs VGGT_ROS_DATA")
    command.add_argument("--sequences", nargs="+", default=["tum_fr1_xyz", "hololens_dvmvs_000"], metavar="NAME",
                         help="in VGGT_ROS_DATA, with depth and ground truth")
    command.add_argument("--seeds", type=count, default=3, help="runs of each sequence (default 3)")
    command.add_argument("--uncalibrated", action="store_true", help="withhold the camera's calibration")
    _add_settings(command)
    commands.add_parser("node", help="CPU time of the node per image, without reconstructor and tracker; needs ROS 2")
    command = commands.add_parser("tracking", help="processor time of an image in the tracker; needs VGGT_ROS_DATA")
    command.add_argument("--sequences", nargs="+", default=["tum_fr1_xyz"], metavar="NAME", help="in VGGT_ROS_DATA")
    command.add_argument("--profile", action="store_true", help="also print the functions that take most of it")
    _add_settings(command)
    command = commands.add_parser("live", help="the node over DDS at the camera's rate: thinned keyframes, error, "
                                  "latencies, gaps of map -> odom, memory, start-up; needs ROS 2 and an idle machine")
    command.add_argument("bag", type=given_path, help="a rosbag2, with ground truth if errors are wanted")
    command.add_argument("--rates", type=positive, nargs="*", default=[1.0, 2.0], metavar="RATE",
                         help="speeds at which it is played (default 1 2)")
    command.add_argument("--runs", type=count, default=3, help="runs of each rate (default 3)")
    command.add_argument("--enlarge", type=count, default=1, metavar="FACTOR", help="enlarge the images first, by this")
    command.add_argument("--start-ups", type=int, default=3, help="starts that are timed, beside a bag that plays "
                         "(default 3)")
    _add_settings(command)
    command = commands.add_parser("transport", help="losses and latency of images over DDS, best effort and reliable, "
                                  "with and without config/fastdds.xml; needs ROS 2")
    command.add_argument("--images", type=count, default=90, help="number of images (default 90)")
    command.add_argument("--rate", type=positive, default=30.0, help="images per second (default 30)")
    command = commands.add_parser("rate", help="share of images with a pose, and latency, of a large camera: raw, "
                                  "compressed, and reduced before the node; needs ROS 2 and Linux")
    command.add_argument("--size", type=count, nargs=2, default=[1920, 1080], metavar=("WIDTH", "HEIGHT"))
    command.add_argument("--reduced", type=count, nargs=2, default=[640, 360], metavar=("WIDTH", "HEIGHT"))
    command.add_argument("--rate", type=positive, default=30.0, help="images per second (default 30)")
    command.add_argument("--seconds", type=positive, default=30.0, help="duration of each case (default 30)")
    command.add_argument("--domain", type=int, default=90, help="ROS domain that nobody else uses (default 90)")
    add_robustness_arguments(commands.add_parser(
        "robustness", help="hostile messages, damaged maps, kills, hangs and hours of work; needs ROS 2 and Linux; "
        "returns 1 if the node ends, grows, does not track good images afterwards, or loses what it does not count"))
    command = commands.add_parser("memory", help="growth of resident memory in a bounded space; needs Linux")
    command.add_argument("--keyframes", type=count, default=1000, help="number of keyframes (default 1000)")
    _add_settings(command)
    command = commands.add_parser("fusion", help="compares methods to fuse windows, on windows simulated from ground "
                                  "truth; scenes with recorded trajectories need VGGT_ROS_DATA")
    command.add_argument("--scenes", nargs="+", default=[], metavar="NAME", help="default: all")
    command.add_argument("--seeds", type=count, default=10, help="runs of each scene (default 10)")
    command.add_argument("--windows", type=count, default=40, help="number of windows (default 40; up to 1000)")
    command.add_argument("--false", type=float, nargs="+", default=[0.0, 1.0, 2.0], metavar="RATIO",
                         help="number of false loops for each true one (default 0 1 2)")
    command.add_argument("--picture", type=new_file, metavar="FILE", help="draw the errors of all runs there, as PNG")
    command = commands.add_parser("updates", help="time of a pose graph update, and how long it delays other threads")
    command.add_argument("--windows", type=count, default=1000, help="number of windows (default 1000)")
    vggt.add_arguments(commands.add_parser(
        "vggt", help="latency, memory and throughput of the network, compared with the published way to run it; needs "
        "torch, but no weights"))
    window_cost.add_arguments(commands.add_parser(
        "window", help="time and memory of a window on a CPU, for DA3, VGGT and multiview; needs torch and "
        "depth-anything-3, but no weights"))
    gpu_visit.add_arguments(commands.add_parser(
        "gpu_visit", help="what a GPU must tell about VGGT, in one run of a few minutes; needs torch, no weights, no "
        "network; returns 1 if a section was not done"))
    for command in commands.choices.values():
        command.add_argument("--json", type=new_file, metavar="FILE", help="write the figures there, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
