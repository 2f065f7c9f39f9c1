"""Opening a view by command-line options: the native viewer, a web page, or a file."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from vggt_ros.arguments import given_path

if TYPE_CHECKING:
    from vggt_ros.view.scene import Scene

WEB_PORT = 9090
"""Port of the web page; its data come from the next one."""


class ViewError(RuntimeError):
    """The view cannot be opened; the text says why, and what would be right."""


def add_view_arguments(parser: argparse.ArgumentParser, native: bool) -> None:
    """Add the options for where to show the view; with `native`, there is one for the native viewer, too."""
    group = parser.add_mutually_exclusive_group()
    if native:
        group.add_argument("--view", action="store_true", help="show the run in Rerun's viewer; needs rerun-sdk")
    group.add_argument("--web", type=int, nargs="?", const=WEB_PORT, metavar="PORT",
                       help=f"show it on a web page, for any browser in the network (default port {WEB_PORT})")
    group.add_argument("--rrd", type=given_path, metavar="FILE", help="write it to a file for Rerun's viewer")


def open_view(web: int | None = None, file: Path | None = None) -> Scene:
    """Return an empty scene that is shown on a web page at port `web`, written to `file`, or shown in a new window.

    Raises:
        ViewError: rerun-sdk is not installed, there is no screen, a port is in use, or the file cannot be written.

    """
    try:
        scenes = import_module("vggt_ros.view.scene")
    except ImportError as error:
        raise ViewError(f"the view needs rerun-sdk ({error}): pip install 'rerun-sdk>=0.32', or 'vggt_ros[view]'"
                        ) from error
    if file is not None:
        if not file.parent.is_dir():
            raise ViewError(f"{file}: there is no folder {file.parent}")
        try:
            return scenes.Scene.to_file(file)
        except RuntimeError as error:
            raise ViewError(f"{file}: {error}") from error
    if web is not None:
        for port in (web, web + 1):
            _check_port(port)
        return scenes.Scene.to_web(web)
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ViewError("there is no screen for Rerun's viewer (DISPLAY is not set): use --web or --rrd FILE")
    if shutil.which("rerun") is None:
        raise ViewError("the program rerun is not on the PATH: activate the environment that rerun-sdk is installed in")
    return scenes.Scene.to_window()


def web_address(port: int, host: str = "") -> str:
    """Return the address of the web page on this machine, by its name in the network or another one."""
    host = host or socket.gethostname()
    return f"http://{host}:{port}/?url=rerun%2Bhttp://{host}:{port + 1}/proxy"


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise ViewError(f"port {port} cannot be used for the web page ({error}): choose another one, "
                            "--web PORT") from error
