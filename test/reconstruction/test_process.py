"""The CPU reconstructor in a process of its own answers as the one here does."""

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


def test_same_answers_same_refusals_and_a_death_survived():
    config = Config(reconstructor="multiview")
    elsewhere, why = create_reconstructor(config, apart=True)
    try:
        assert why == "multiview, as set"
        assert elsewhere._pool.submit(os.nice, 0).result() > os.nice(0), "images do not come before windows"
        there, here = elsewhere.reconstruct(window(5)), Multiview(config).reconstruct(window(5))
        assert np.array_equal(there.window_camera, here.window_camera)
        assert np.array_equal(there.depth, here.depth, equal_nan=True)
        with pytest.raises(ReconstructionRefused, match="too few tracks"):
            elsewhere.reconstruct(window(1))
        os.kill(next(iter(elsewhere._pool._processes)), signal.SIGKILL)
        with pytest.raises(RuntimeError, match="another one is started"):
            elsewhere.reconstruct(window(5))
        assert elsewhere.reconstruct(window(5)).keyframe_ids == there.keyframe_ids
    finally:
        elsewhere.close()


def test_without_pycolmap_the_package_loads_and_names_it():
    """There is no wheel of it for Linux on ARM, where VGGT must run without it."""
    code = ("import sys; sys.modules['pycolmap'] = None\n"
            "from vggt_ros.reconstruction import create_reconstructor\n"
            "from vggt_ros.config import Config\n"
            "create_reconstructor(Config(reconstructor='multiview'))")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ConfigError: multiview needs pycolmap" in answer.stderr
