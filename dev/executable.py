"""Runs an executable of the package by its name, as `ros2 run vggt_ros NAME` does, without an installation."""

import importlib
import re
import sys
from pathlib import Path


def entry_points() -> dict[str, str]:
    """Return name to `module:function`, as setup.py lists them."""
    text = (Path(__file__).parents[1] / "setup.py").read_text()
    return dict(re.findall(r'"(\w+) = ([\w.]+:\w+)"', text))


def main() -> None:
    """Run the executable named first on the command line with the arguments after it."""
    known = entry_points()
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        sys.exit(f"usage: dev/run EXECUTABLE ARGS...\nexecutables: {', '.join(known)}")
    module, function = known[sys.argv[1]].split(":")
    sys.argv = sys.argv[1:]
    sys.exit(getattr(importlib.import_module(module), function)())


if __name__ == "__main__":
    main()
