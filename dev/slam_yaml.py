"""Writes config/slam.yaml and docs/reference/parameters.md from vggt_ros/config.py: `python dev/slam_yaml.py`.

Tests check that they are up to date.
"""

from __future__ import annotations

from pathlib import Path

from vggt_ros.config import Config
from vggt_ros.parameter_text import own_settings, parameter_file, tables

ROOT = Path(__file__).parents[1]
TARGET, PAGE = ROOT / "config" / "slam.yaml", ROOT / "docs" / "reference" / "parameters.md"
HEADER = """\
# Every parameter of vggt_slam with its default. Made from vggt_ros/config.py by dev/slam_yaml.py: change it there.
# Copy this file, keep the lines you change, and pass it to the launch file as slam_params_file.
"""
INTRODUCTION = """\
# Parameters

<!-- Made by dev/slam_yaml.py from vggt_ros/config.py: change it there. -->

These are the parameters of the node `vggt_slam` and the settings of the command lines. `config/slam.yaml` holds all of
them with their defaults. Copy it, keep the lines that you change, and pass it to the launch file:

```sh
ros2 launch vggt_ros slam.launch.py slam_params_file:=mine.yaml
```

The command lines take the same names: `replay --set windows.size=10`.

Parameters are read when the node starts. Those marked *live* may change while the node runs
(`ros2 param set /vggt_slam map.min_confidence 0.5`); all others are read-only. Ranges are inclusive, and a value
outside its range is refused.
"""


def slam_yaml(config: Config | None = None) -> str:
    """Return the text of the parameter file with all settings of `config`, each with a comment."""
    return HEADER + parameter_file(own_settings(config or Config()))


def parameters_page() -> str:
    """Return the text of docs/reference/parameters.md: a table for every group of settings."""
    config = Config()
    return "\n".join([INTRODUCTION, *tables(config, own_settings(config))])


if __name__ == "__main__":
    for path, text in ((TARGET, slam_yaml()), (PAGE, parameters_page())):
        path.write_text(text)
        print(f"wrote {path}")
