"""The profile of Fast DDS for a process that sends no camera images.

Fast DDS writes to all of its shared-memory segment when a process starts. `config/fastdds.xml` asks for 32 MB, which a
camera driver needs; the node sends much less, and needs these 32 MB of its memory for other things.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

VARIABLES = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
_FOR_CAMERAS, _FOR_NODES = "fastdds.xml", "fastdds_node.xml"


def for_node(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are to be changed: those that name our profile for cameras, with the one for nodes."""
    changed = {}
    for variable in VARIABLES:
        given = Path(environment.get(variable, ""))
        if given.name == _FOR_CAMERAS and given.with_name(_FOR_NODES).is_file():
            changed[variable] = str(given.with_name(_FOR_NODES))
    return changed


def use_node_profile() -> str:
    """Take the profile for nodes in this process, before rclpy begins; return a line for the log, empty if not."""
    changed = for_node(os.environ)
    os.environ.update(changed)
    return f"shared memory of DDS as in {next(iter(changed.values()))}" if changed else ""
