"""The profile of Fast DDS for processes that send no camera images.

Fast DDS writes to all of its shared-memory segment when a process starts. `config/fastdds.xml` asks for 32 MB, which a
camera driver needs; the node sends much less, and needs these 32 MB of its memory for other things.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
"""Chooses the transports of Fast DDS, such as LARGE_DATA: TCP, which sends lost packets again, where UDP loses all of a
datagram of 64 kB with any of its 45 packets."""
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


def without_own_profile(environment: Mapping[str, str]) -> list[str]:
    """Return the variables that name a profile of ours, by which `FASTDDS_BUILTIN_TRANSPORTS` would have no effect."""
    return [variable for variable in VARIABLES if environment.get(TRANSPORTS)
            and Path(environment.get(variable, "")).name in (_FOR_CAMERAS, _FOR_NODES)]


def use_given_transports() -> None:
    """Let `FASTDDS_BUILTIN_TRANSPORTS` decide in this process, which exchanges windows with another machine."""
    for variable in without_own_profile(os.environ):
        del os.environ[variable]
