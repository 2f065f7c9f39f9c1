"""The CPU reconstructor in a child process gives the same results as in this process."""

import os
import signal
import subprocess
import sys

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


def test_without_pycolmap_the_package_loads_and_the_error_names_it():
    """pycolmap has no wheel for Linux on ARM, where VGGT must run without it."""
    code = ("import sys; sys.modules['pycolmap'] = None\n"
            "from vggt_ros.reconstruction import create_reconstructor\n"
            "from vggt_ros.config import Config\n"
            "create_reconstructor(Config(reconstructor='multiview'))")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ConfigError: multiview needs pycolmap" in answer.stderr
