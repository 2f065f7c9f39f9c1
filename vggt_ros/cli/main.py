"""vggt_ros: one command for all that needs no ROS, with the executables of `ros2 run` as its subcommands."""

from __future__ import annotations

import sys
from pathlib import Path

import vggt_ros
from vggt_ros.cli.interrupts import ends_in_order, imported

COMMANDS = {
    "replay": "run a recording through the pipeline: folder of images, rosbag2, video",
    "reconstruct": "photos of one camera, in any order: cameras, depth, points, tracks",
    "evaluate": "errors of a trajectory or of depth maps against ground truth",
    "export": "write a saved map in the formats of other programs",
    "merge": "join saved maps of different days or robots where they see the same places",
    "benchmark": "accuracy, fusion, memory and speed: every figure in the documentation",
    "parity": "hold the network against reference outputs of the published one",
    "check": "what holds on this machine and what does not: versions, GPU, weights, memory, speed",
}
"""Subcommand, which is a module of this package, to what it does."""
_ROS = {"bag_player": "tools.bag_player", "view": "tools.view_node", "reconstruction_server": "remote.server"}
"""Executables that need ROS, and their modules in `vggt_ros.ros`."""


def usage() -> str:
    """Return the help text."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: vggt_ros COMMAND ...", "", "Dense monocular SLAM, without ROS.", "", "commands:", *lines,
                      "", "`vggt_ros COMMAND --help` lists the arguments of a command."])


@ends_in_order()
def main(args: list[str] | None = None, prog: str = "vggt_ros") -> int:
    """Run the subcommand named first."""
    args = sys.argv[1:] if args is None else args
    if args[:1] == ["--version"]:
        print(vggt_ros.__version__)
        return 0
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        print(f"{prog}: no command {args[0]!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return int(imported(f"vggt_ros.cli.{args[0]}", prog).main(args[1:], f"{prog} {args[0]}"))


def executable() -> int:
    """Run the program of the name under which this one was started, such as `ros2 run vggt_ros replay`."""
    name = Path(sys.argv[0]).stem
    module = f"vggt_ros.ros.{_ROS[name]}" if name in _ROS else f"vggt_ros.cli.{name}"
    return ends_in_order()(lambda args=None, prog=name: int(imported(module, name).main()))()


if __name__ == "__main__":
    sys.exit(main())
