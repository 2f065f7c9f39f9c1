"""Launchers for the scenarios: start the executables of the package as processes, as `dev/run` does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import unittest

from paths import ROOT


class Process:
    """A process and its log so far."""

    def __init__(self, command, log):
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT,
                                             env={**os.environ, "PYTHONUNBUFFERED": "1"})
        self.pid = self._process.pid

    @property
    def code(self):
        """The exit status; None while it runs."""
        return self._process.poll()

    @property
    def log(self):
        return self._log.read_text(errors="replace")


def ended_cleanly(process):
    """Return whether a process has ended by itself, all but the interpreter, which a busy machine may make slow.

    What has not ended 4 s after the signal is cut off (`bounded_end`), and says where it was.
    """
    return process.code == 0 or (process.code == 1 and "<no Python frame>" in process.log)


class Launcher:
    """Base class of the launchers: parameter files, signals and termination of processes."""

    def __init__(self, peer, folder):
        self.peer, self.folder, self.started, self.killed = peer, folder, [], set()

    def settings(self, name="settings", **values):
        """Write a parameter file (`__` for the dot) and return its path."""
        path = self.folder / f"{name}.yaml"  # JSON is YAML
        parameters = {name.replace("__", "."): value for name, value in values.items()}
        path.write_text(json.dumps({"/**": {"ros__parameters": parameters}}))
        return str(path)

    def signal(self, process, number, seconds=60.0):
        """Send a signal, wait for the end of the process and return its exit status; None if it does not end."""
        os.kill(process.pid, number)
        if number == signal.SIGKILL:
            self.killed.add(process.pid)
        self.peer.spin(lambda: process.code is not None, seconds)
        return process.code

    def close(self):
        """Interrupt running processes by SIGINT; assert that all processes that were not killed ended cleanly."""
        try:
            for process in reversed(self.started):
                if process.code is None and self.signal(process, signal.SIGINT) is None:
                    os.kill(process.pid, signal.SIGKILL)
            for process in self.started:
                assert process.pid in self.killed or ended_cleanly(process), f"ended with {process.code}\n{process.log}"
                assert "Traceback" not in process.log, process.log
        finally:
            for process in self.started:
                if process.code is None:
                    os.kill(process.pid, signal.SIGKILL)


class ProcessLauncher(Launcher):
    """Starts processes for the arguments of launch/slam.launch.py, without launch."""

    def start(self, *, image="/camera/image_raw", camera_info="", transport="raw", slam_params_file="", bag="",
              rviz="false", use_sim_time="", namespace="", slam_autostart="true"):
        """Start the node, and the bag player if `bag` is given; return the process of the node."""
        if rviz == "true":
            raise unittest.SkipTest("RViz is started by the launch file only")
        subscribed = f"{image}/compressed" if transport == "compressed" else image
        remaps = {"/tf": "tf", "/tf_static": "tf_static", "image": image,
                  "image/compressed": f"{image}/compressed", "__ns": f"/{namespace}",
                  "camera_info": camera_info or image.rpartition("/")[0] + "/camera_info"}
        name = f"/{namespace}/vggt_slam".replace("//", "/")
        node = self.run("slam_node", "--ros-args", "--params-file", slam_params_file or ROOT / "config" / "slam.yaml",
                        "-p", f"camera.transport:={transport}",
                        "-p", f"use_sim_time:={use_sim_time or str(bool(bag)).lower()}",
                        *(word for name, target in remaps.items() for word in ("-r", f"{name}:={target}")))
        if bag:
            self.run("bag_player", bag, "--clock", "--wait-for", subscribed, "--wait-ready", f"{name}/status")
        if slam_autostart == "true":
            assert self.peer.state(name) == "unconfigured"
            self.peer.change("configure", "activate", node=name)
        return node

    def run(self, executable, *arguments):
        """Start an executable of the package."""
        command = [sys.executable, str(ROOT / "dev" / "executable.py"), executable, *map(str, arguments)]
        self.started.append(Process(command, self.folder / f"{len(self.started)}_{executable}.log"))
        return self.started[-1]
