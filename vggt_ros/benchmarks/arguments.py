"""The arguments of the benchmarks whose modules import ROS or torch; apart, because their help needs neither."""

from __future__ import annotations

import argparse
import random
from importlib import import_module

from vggt_ros.arguments import add_settings, count, given_path, new_folder, positive
from vggt_ros.config import Config


def node(parser: argparse.ArgumentParser) -> None:
    """`benchmark node` has no arguments."""
    parser.set_defaults(run=lambda options: (import_module("vggt_ros.benchmarks.ros.node").node_cost(), True))


def live(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark live`."""
    parser.add_argument("bag", type=given_path, help="a rosbag2, with ground truth if errors are wanted")
    parser.add_argument("--rates", type=positive, nargs="*", default=[1.0, 2.0], metavar="RATE",
                        help="speeds at which it is played (default 1 2)")
    parser.add_argument("--runs", type=count, default=3, help="runs of each rate (default 3)")
    parser.add_argument("--enlarge", type=count, default=1, metavar="FACTOR", help="enlarge the images first, by this")
    parser.add_argument("--start-ups", type=int, default=3, help="starts that are timed, beside a bag that plays "
                        "(default 3)")
    add_settings(parser)
    parser.set_defaults(run=lambda options: (import_module("vggt_ros.benchmarks.ros.live").live(
        options.bag, options.rates, options.runs, options.enlarge, options.start_ups, options.set), True))


def transport(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark transport`."""
    parser.add_argument("--images", type=count, default=90, help="number of images (default 90)")
    parser.add_argument("--rate", type=positive, default=30.0, help="images per second (default 30)")
    parser.set_defaults(run=lambda options: (import_module("vggt_ros.benchmarks.ros.transport").transport(
        options.images, options.rate), True))


def rate(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark rate`."""
    parser.add_argument("--size", type=count, nargs=2, default=[1920, 1080], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--reduced", type=count, nargs=2, default=[640, 360], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--rate", type=positive, default=30.0, help="images per second (default 30)")
    parser.add_argument("--seconds", type=positive, default=30.0, help="duration of each case (default 30)")
    parser.add_argument("--domain", type=int, default=90, help="ROS domain that nobody else uses (default 90)")
    parser.set_defaults(run=lambda options: (import_module("vggt_ros.benchmarks.ros.image_rate").image_rate(
        tuple(options.size), options.rate, options.seconds, tuple(options.reduced), options.domain), True))


def recorded(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark recorded`."""
    parser.add_argument("folder", type=given_path, help="with images/, run_*.npz and colmap.txt")
    parser.add_argument("--at-most", type=float, nargs=2, metavar=("CENTERS_PERCENT", "DEGREES"),
                        help="exit status 1 if the refined, fused windows are farther off")
    add_settings(parser)
    parser.set_defaults(run=lambda options: import_module("vggt_ros.benchmarks.accuracy.recorded_report").recorded(
        options.folder, options.at_most and tuple(options.at_most),
        Config().replace({"map.kept_width": 100}).parse(options.set)))


def refinement(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark refinement`."""
    parser.add_argument("--sequences", nargs="+", default=["tum_fr1_xyz", "hololens_dvmvs_000"], metavar="NAME",
                        help="in VGGT_ROS_DATA, with depth and ground truth")
    parser.add_argument("--seeds", type=count, default=3, help="runs of each sequence (default 3)")
    parser.add_argument("--uncalibrated", action="store_true", help="withhold the camera's calibration")
    add_settings(parser)
    parser.set_defaults(run=lambda options: (import_module("vggt_ros.benchmarks.accuracy.refinement").refinement(
        options.sequences, options.seeds, not options.uncalibrated, Config().parse(options.set)), True))


def robustness(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark robustness`: how often each is done; 0 leaves it out."""
    for name, number, what in (("messages", 100_000, "hostile messages on all topics"),
                               ("kills", 40, "kills in the middle of a save"), ("damaged", 1000, "damaged maps"),
                               ("cycles", 100, "lifecycle cycles"),
                               ("child-kills", 10, "kills of the reconstructor's process"),
                               ("hangs", 1, "hangs of the reconstructor")):
        parser.add_argument(f"--{name}", type=int, default=number, metavar="N", help=f"{what} (default {number})")
    parser.add_argument("--soak", type=float, default=3600.0, metavar="SECONDS",
                        help="duration of mapping without a pause (default 3600)")
    parser.add_argument("--rate", type=float, default=15.0, help="images a second of the soak (default 15)")
    parser.add_argument("--domain", type=int, default=random.SystemRandom().randint(1, 100),
                        help="ROS domain that nobody else uses (default: any of 1 to 100)")
    parser.add_argument("--logs", type=new_folder, metavar="FOLDER", help="keep the logs of the nodes there")
    parser.set_defaults(run=lambda options: import_module("vggt_ros.benchmarks.robustness.run").robustness(options))
