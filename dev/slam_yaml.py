"""Writes config/slam.yaml and the table of parameters in the README from vggt_ros/config.py: `python dev/slam_yaml.py`.

Tests check that they are up to date.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from vggt_ros.config import Config
from vggt_ros.settings import Setting, Value

TARGET = Path(__file__).parents[1] / "config" / "slam.yaml"
README = Path(__file__).parents[1] / "README.md"
MARKERS = "<!-- parameters: made by dev/slam_yaml.py -->\n", "<!-- end of parameters -->"
HEADER = """\
# Every parameter of vggt_slam with its default. Made from vggt_ros/config.py by dev/slam_yaml.py: change it there.
# Copy this file, keep the lines you change, and pass it to the launch file as params_file.
/**:
  ros__parameters:
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


def readme_with_parameters(readme: str) -> str:
    """Return the text of the README with an updated table of parameters."""
    rows = ["| parameter | default | meaning |", "|---|---|---|"]
    rows += [f"| `{setting.name}` | `{_markdown_value(value)}` | {' '.join([setting.doc, _limits(setting)]).strip()} |"
             for setting, value in Config()]
    before, rest = readme.split(MARKERS[0])
    return before + MARKERS[0] + "\n".join(rows) + "\n" + MARKERS[1] + rest.split(MARKERS[1])[1]


def _markdown_value(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _limits(setting: Setting) -> str:
    parts = [", ".join(setting.choices)] if setting.choices else []
    if setting.low is not None and setting.high is not None:
        parts.append(f"{setting.low:g} to {setting.high:g} {setting.unit}".rstrip())
    if setting.live:
        parts.append("may change while the node runs")
    return f"({'; '.join(parts)})" if parts else ""


def _yaml_scalar(value: Value) -> str:
    """Return a YAML scalar that is read with the same type: `true` in quotes is a string."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value)


if __name__ == "__main__":
    TARGET.write_text(slam_yaml())
    README.write_text(readme_with_parameters(README.read_text()))
    print(f"wrote {TARGET} and {README}")
