"""DDS domains for tests: those that no other process of this machine uses."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

_FOLDER = Path(tempfile.gettempdir(), f"vggt_ros_domains_{os.getuid()}")
_DOMAINS = range(1, 102)
"""Beyond 101 the ports of a domain are among those that Linux gives to any program."""


def _is_free(domain):
    """Return whether no participant of DDS, such as a node started by hand, has a port of a domain (RTPS, 9.6.1)."""
    for participant in range(10):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            try:
                one.bind(("", 7400 + 250 * domain + 10 + 2 * participant))
            except OSError:
                return False
    return True


@contextmanager
def own_domain():
    """Lock a domain that is free, the one that was used least recently: DDS lists killed nodes for 20 s.

    Raises:
        RuntimeError: all domains are in use.

    """
    _FOLDER.mkdir(exist_ok=True)
    files = [_FOLDER / str(number) for number in _DOMAINS]
    for file in sorted(files, key=lambda file: file.stat().st_mtime if file.exists() else 0.0):
        with file.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if not _is_free(int(file.name)):
                continue
            try:
                yield int(file.name)
            finally:
                os.utime(file)
            return
    raise RuntimeError(f"all DDS domains are in use: {_FOLDER}")


@contextmanager
def ros_environment(folder):
    """Set variables of ROS: a domain of its own, which is returned, on this machine, and logs in a folder."""
    with own_domain() as domain:
        values = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
                  "ROS_LOG_DIR": str(folder)}
        before = {name: os.environ.get(name) for name in values}
        os.environ |= values
        try:
            yield domain
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
