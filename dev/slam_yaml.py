"""Writes config/slam.yaml and docs/reference/parameters.md from vggt_ros/config.py: `python dev/slam_yaml.py`.

Tests check that they are up to date.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from vggt_ros.config import Config
from vggt_ros.settings import Setting, Value

ROOT = Path(__file__).parents[1]
TARGET, PAGE = ROOT / "config" / "slam.yaml", ROOT / "docs" / "reference" / "parameters.md"
HEADER = """\
# Every parameter of vggt_slam with its default. Made from vggt_ros/config.py by dev/slam_yaml.py: change it there.
# Copy this file, keep the lines you change, and pass it to the launch file as slam_params_file.
/**:
  ros__parameters:
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
    text, previous = HEADER, ""
    for setting, value in config or Config():
        group, _, name = setting.name.rpartition(".")
        if group != previous:
            text += f"\n    {group}:\n"
            previous = group
        indent = "      " if group else "    "
        comment = " ".join([setting.doc, _limits(setting)]).strip()
        text += textwrap.fill(comment, 118, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ") + "\n"
        text += f"{indent}{name}: {_yaml_scalar(value)}\n"
    return text


def parameters_page() -> str:
    """Return the text of docs/reference/parameters.md: a table for every group of settings."""
    config, text, previous = Config(), INTRODUCTION, None
    for setting, value in config:
        group = setting.name.rpartition(".")[0]
        if group != previous:
            text += f"\n## {f'`{group}`' if group else 'General'}\n\n"
            text += f"{type(getattr(config, group)).__doc__}\n\n" if group else ""
            text += "| parameter | default | range | meaning |\n|---|---|---|---|\n"
            previous = group
        default = f"`{_markdown_value(value)}`" if value != "" else ""
        meaning = f"{setting.doc} *Live.*" if setting.live else setting.doc
        known = setting.choices or (("true", "false") if isinstance(value, bool) else ())
        allowed = ", ".join(f"`{choice}`" for choice in known) or _range(setting)
        text += f"| `{setting.name}` | {default} | {allowed} | {meaning} |\n"
    return text


def _markdown_value(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _range(setting: Setting) -> str:
    if setting.low is not None and setting.high is not None:
        return f"{_number(setting.low)} to {_number(setting.high)} {setting.unit}".rstrip()
    return ", ".join(setting.choices)


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:g}"


def _limits(setting: Setting) -> str:
    parts = [_range(setting), "may change while the node runs" if setting.live else ""]
    return f"({'; '.join(filter(None, parts))})" if any(parts) else ""


def _yaml_scalar(value: Value) -> str:
    """Return a YAML scalar that is read with the same type: `true` in quotes is a string."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value)


if __name__ == "__main__":
    for path, text in ((TARGET, slam_yaml()), (PAGE, parameters_page())):
        path.write_text(text)
        print(f"wrote {path}")
