"""benchmark: measures every figure in the documentation; each is stated with its command."""

from __future__ import annotations

import argparse
import json
import sys

from vggt_ros.arguments import new_file
from vggt_ros.benchmarks.gpu.vggt import BenchmarkError
from vggt_ros.cli.interrupts import ends_in_order, imported
from vggt_ros.settings import ConfigError
from vggt_ros.storage.files import FileError
from vggt_ros.threads import single_threaded_blas

COMMANDS = (
    ("accuracy", "accuracy.trajectory", "trajectory error on recorded and rendered sequences; needs VGGT_ROS_DATA, "
     "except for demo_room"),
    ("map", "accuracy.maps", "errors of the dense map on recorded sequences with a depth camera, and on rendered ones"),
    ("merge", "accuracy.merging", "trajectory error of recordings that are cut, mapped in parts and merged, against "
     "maps made in one; needs VGGT_ROS_DATA, except for demo_room"),
    ("grid", "accuracy.grids", "occupancy grid against the one that a depth camera and the true poses give; needs "
     "VGGT_ROS_DATA, except for demo_room"),
    ("cluster", "speed.cluster", "wall time of a long recording on simulated workers, which sleep"),
    ("workers", "speed.workers", "wall time of `replay` with one worker, with several, and with several of which one "
     "is killed, and whether the results are the same to the bit; needs VGGT_ROS_DATA and an idle machine"),
    ("scale", "accuracy.scale", "error of metric scale by each source; needs VGGT_ROS_DATA, except for "
     "rendered_drive and rendered_uneven"),
    ("speed", "speed.replay", "processor time, memory and error of `replay`, here and in another state of this "
     "repository; needs VGGT_ROS_DATA and a git checkout"),
    ("recorded", "arguments:recorded", "windows of recorded outputs of VGGT-1B, fused, with and without refinement, "
     "against COLMAP"),
    ("refinement", "arguments:refinement", "trajectory error of windows with a network's errors, with and without "
     "refinement; needs VGGT_ROS_DATA"),
    ("node", "arguments:node", "CPU time of the node per image, without reconstructor and tracker; needs ROS 2"),
    ("tracking", "speed.tracking", "processor time of an image in the tracker; needs VGGT_ROS_DATA"),
    ("live", "arguments:live", "the node over DDS at the camera's rate: thinned keyframes, error, latencies, "
     "gaps of map -> odom, memory, start-up; needs ROS 2 and an idle machine"),
    ("transport", "arguments:transport", "losses and latency of images over DDS, best effort and reliable, with "
     "and without config/fastdds.xml; needs ROS 2"),
    ("rate", "arguments:rate", "share of images with a pose, and latency, of a large camera: raw, compressed, "
     "and reduced before the node; needs ROS 2 and Linux"),
    ("robustness", "arguments:robustness", "hostile messages, damaged maps, kills, hangs and hours of work; "
     "needs ROS 2 and Linux; returns 1 if the node ends, grows, does not track good images afterwards, or loses what "
     "it does not count"),
    ("memory", "speed.memory", "growth of resident memory in a bounded space; needs Linux"),
    ("fusion", "fusion.report", "compares methods to fuse windows, on windows simulated from ground truth; scenes "
     "with recorded trajectories need VGGT_ROS_DATA"),
    ("updates", "speed.updates", "time of a pose graph update, and how long it delays other threads"),
    ("vggt", "gpu.vggt", "latency, memory and throughput of the network, compared with the published way to run it; "
     "needs torch, but no weights"),
    ("window", "speed.window_cost", "time and memory of a window on a CPU, for DA3, VGGT and multiview; needs torch "
     "and depth-anything-3, but no weights"),
    ("gpu_visit", "gpu.visit", "what a GPU must tell about VGGT, in one run of a few minutes; needs torch, no "
     "weights, no network; returns 1 if a section was not done"),
)
"""Name, module of `vggt_ros.benchmarks` and its function if that is not `add_arguments`, and help.

The function adds the arguments, and sets `run`: from the options to all figures and whether the benchmark passed.
"""


@ends_in_order(BenchmarkError, ConfigError, FileError, ImportError, OSError)
def main(args: list[str] | None = None, prog: str = "benchmark") -> int:
    """Run the benchmark named on the command line."""
    options = _parser(sys.argv[1:] if args is None else args, prog).parse_args(args)
    single_threaded_blas()
    figures, passed = options.run(options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(not passed)


def _parser(args: list[str], prog: str) -> argparse.ArgumentParser:
    """Return the parser; only the benchmark that is named is imported, and has its arguments."""
    parser = argparse.ArgumentParser(prog=prog, description="Measures accuracy, maps, fusion, the node's cost, memory "
                                     "or the network's speed.")
    commands = parser.add_subparsers(dest="command", required=True)
    named = next((word for word in args if not word.startswith("-")), None)
    for name, where, text in COMMANDS:
        command = commands.add_parser(name, help=text)
        if name == named:
            module, _, function = where.partition(":")
            getattr(imported(f"vggt_ros.benchmarks.{module}", prog), function or "add_arguments")(command)
            command.add_argument("--json", type=new_file, metavar="FILE", help="write the figures there, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
