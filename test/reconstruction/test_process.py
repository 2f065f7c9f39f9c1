"""The CPU reconstructor in a child process gives the same results as in this process."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from scenes import lap

from vggt_ros.config import Config
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.multiview import Multiview
from vggt_ros.windows.keyframe import Keyframe, Window


def window(count: int, step: int = 4) -> Window:
    """Return a window of the lap around the room."""
    frames = lap().frames[: count * step : step]
    return Window(0, tuple(Keyframe(i, f.stamp, f.image, f.intrinsics) for i, f in enumerate(frames)))


def test_same_results_same_refusals_and_a_killed_process_is_restarted():
    config = Config(reconstructor="multiview")
    in_process, reason = create_reconstructor(config, separate_process=True)
    try:
        assert reason == "multiview, as configured"
        assert in_process._pool.submit(os.nice, 0).result() > os.nice(0), "tracking has no priority over windows"
        remote, local = in_process.reconstruct(window(5)), Multiview(config).reconstruct(window(5))
        assert np.array_equal(remote.window_camera, local.window_camera)
        assert np.array_equal(remote.depth, local.depth, equal_nan=True)
        with pytest.raises(ReconstructionRefused, match="too few tracks"):
            in_process.reconstruct(window(1))
        os.kill(next(iter(in_process._pool._processes)), signal.SIGKILL)
        with pytest.raises(RuntimeError, match="a new one is started"):
            in_process.reconstruct(window(5))
        assert in_process.reconstruct(window(5)).keyframe_ids == remote.keyframe_ids
    finally:
        in_process.close()


def test_a_process_that_hangs_is_killed_and_started_anew():
    """It is stopped, as a deadlock would: no progress. One that is slow, but gets on, is waited for."""
    config = Config().replace({"reconstructor": "multiview", "windows.deadline": 3.0})
    remote, _ = create_reconstructor(config, separate_process=True)
    try:
        first = remote._pid
        os.kill(first, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(RuntimeError, match=r"has hung .*windows\.deadline.*a new one is started"):
            remote.reconstruct(window(5))
        assert time.monotonic() - began < 20
        assert remote._pid != first
        assert any(wait_until_gone(first) for _ in range(100)), "it still runs"
        stop_and_go = threading.Thread(target=slow_down, args=(remote._pid,), daemon=True)
        stop_and_go.start()
        assert len(remote.reconstruct(window(5)).keyframe_ids) == 5
    finally:
        remote.interrupt()
        remote.close()


def wait_until_gone(pid):
    time.sleep(0.1)
    path = Path(f"/proc/{pid}/stat")
    return not path.exists() or path.read_text().rpartition(")")[2].split()[0] == "Z"


def slow_down(pid):
    """Let a process run for a fifth of the time."""
    try:
        while True:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.2)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)
    except ProcessLookupError:
        return


def test_a_window_is_given_up_when_the_process_is_interrupted():
    remote, _ = create_reconstructor(Config(reconstructor="multiview"), separate_process=True)
    os.kill(remote._pid, signal.SIGSTOP)
    threading.Timer(0.3, remote.interrupt).start()
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="closed"):
        remote.reconstruct(window(5))
    remote.close()
    assert time.monotonic() - began < 5


def test_without_pycolmap_the_package_loads_and_the_error_names_it():
    """pycolmap has no wheel for Linux on ARM, where VGGT must run without it."""
    code = ("import sys; sys.modules['pycolmap'] = None\n"
            "from vggt_ros.reconstruction import create_reconstructor\n"
            "from vggt_ros.config import Config\n"
            "create_reconstructor(Config(reconstructor='multiview'))")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ConfigError: multiview needs pycolmap" in answer.stderr
