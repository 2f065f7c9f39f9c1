"""Parameter files of the command line that have nothing for a node: a frequent mistake, of which ROS says nothing.

Such as `vggt_slam:` at the top of a file for a node in the namespace /robot1. Names at the top are those of nodes, with
`*` for one word of a name and `**` for any number of them:
https://design.ros2.org/articles/160_ros_command_line_arguments.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

_PARAMETERS = "ros__parameters"


def without_parameters(arguments: Sequence[str], node: str) -> list[str]:
    """Return a line for each parameter file of a command line that has none for `node`, such as /robot1/vggt_slam."""
    lines = []
    for option, path in pairwise(arguments):
        names = _names(path) if option == "--params-file" else None
        if names == []:
            lines.append(f"{path} has no parameters: they belong below `/**:` and `  {_PARAMETERS}:`")
        elif names is not None and not any(_matches(name, node) for name in names):
            lines.append(f"{path} has no parameters for {node}, only for {', '.join(sorted(set(names)))}; `/**:` is "
                         "any node")
    return lines


def _names(path: str) -> list[str] | None:
    """Return the names of nodes in a parameter file; None if it cannot be read, of which ROS speaks."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return list(_nodes(content, ""))


def _nodes(content: Any, name: str) -> Iterator[str]:
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if key == _PARAMETERS:
            yield name or "/"
        else:
            yield from _nodes(value, f"{name}/{str(key).strip('/')}")


def _matches(name: str, node: str) -> bool:
    """Return whether a name with wildcards is that of a node."""
    words = [r"(/[^/]+)*" if word == "**" else "/" + re.escape(word).replace(r"\*", "[^/]*")
             for word in name.strip("/").split("/")]
    return re.fullmatch("".join(words), node) is not None
