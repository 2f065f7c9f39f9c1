"""Runs an executable of the package by its name, like `ros2 run vggt_ros NAME`, without installing the package."""

import importlib
import re
import sys
from pathlib import Path


def entry_points() -> dict[str, str]:
    """Return the entry points in setup.py: name to `module:function`."""
    text = (Path(__file__).parents[1] / "setup.py").read_text()
    return dict(re.findall(r'"(\w+) = ([\w.]+:(?:main|executable))"', text))


def main() -> None:
    """Run the executable given by the first command-line argument with the remaining arguments."""
    known = entry_points()
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        sys.exit(f"usage: dev/run EXECUTABLE ARGS...\nexecutables: {', '.join(known)}")
    module, function = known[sys.argv[1]].split(":")
    sys.argv = sys.argv[1:]
    sys.exit(getattr(importlib.import_module(module), function)())


if __name__ == "__main__":
    main()
