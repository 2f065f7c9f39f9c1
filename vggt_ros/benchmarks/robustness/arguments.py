"""The options of `benchmark robustness`; apart, because the other benchmarks need no ROS."""

from __future__ import annotations

import argparse
import random

from vggt_ros.arguments import new_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options: how often each is done; 0 leaves it out."""
    for name, count, what in (("messages", 100_000, "hostile messages on all topics"),
                              ("kills", 40, "kills in the middle of a save"), ("damaged", 1000, "damaged maps"),
                              ("cycles", 100, "lifecycle cycles"),
                              ("child-kills", 10, "kills of the reconstructor's process"),
                              ("hangs", 1, "hangs of the reconstructor")):
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N", help=f"{what} (default {count})")
    parser.add_argument("--soak", type=float, default=3600.0, metavar="SECONDS",
                        help="duration of mapping without a pause (default 3600)")
    parser.add_argument("--rate", type=float, default=15.0, help="images a second of the soak (default 15)")
    parser.add_argument("--domain", type=int, default=random.SystemRandom().randint(1, 100),
                        help="ROS domain that nobody else uses (default: any of 1 to 100)")
    parser.add_argument("--logs", type=new_folder, metavar="FOLDER", help="keep the logs of the nodes there")
