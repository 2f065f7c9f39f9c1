"""Reconstructors for tests of the process that they run in; imported by name in that process."""

from __future__ import annotations

import logging
import time

import numpy as np

from vggt_ros.reconstruction.base import ReconstructionRefused, ReconstructorLost, WindowGeometry


class Staged:
    """Does what the id of a window's first keyframe says: refuse, be lost, fail, hang, warn; else return a plane."""

    REFUSE, LOSE, FAIL, HANG, WARN = 1001, 1002, 1003, 1004, 1005

    def __init__(self, name="vggt"):
        self.name, self.solved, self.prepared = name, 0, ""
        self.on_cpu = name == "multiview"

    @property
    def status_values(self):
        return {"solved": str(self.solved), "prepared": self.prepared}

    def image_size(self, camera):
        return camera.width, camera.height

    def prepare(self, width, height, progress):
        progress(f"compiling for {width}x{height}")
        if width == 13:
            time.sleep(1000)
        if width == 14:
            raise ReconstructionRefused("two images do not fit")
        if width == 15:
            raise ReconstructorLost("the context of the GPU is lost")
        self.prepared = f"{width}x{height}"

    def reconstruct(self, window):
        what = window.keyframes[0].id
        if what == self.REFUSE:
            raise ReconstructionRefused("as told")
        if what == self.LOSE:
            raise ReconstructorLost("the context of the GPU is lost")
        if what == self.FAIL:
            raise KeyError("a bug")
        if what == self.HANG:
            time.sleep(1000)
        if what == self.WARN:
            logging.getLogger("vggt_ros.staged").warning("windows of more than %d images are split", 4)
        self.solved += 1
        count, (height, width) = len(window.keyframes), window.keyframes[0].image.shape[:2]
        return WindowGeometry(window.ids, np.tile(np.eye(4), (count, 1, 1)), np.tile(np.eye(3), (count, 1, 1)),
                              np.full((count, height, width), self.solved, np.float32),
                              np.ones((count, height, width), np.float32))


def create(config, progress):
    """Return a `Staged` reconstructor."""
    progress("loading the weights, 50 %")
    return Staged(), "vggt, for a test"


def create_slowly(config, progress):
    """Never return, as a download that has stalled."""
    progress("downloading")
    time.sleep(1000)


def create_auto(config, progress):
    """Return multiview, after a look whether torch finds a GPU if the setting is `auto`."""
    if config.reconstructor == "auto":
        import torch  # noqa: F401
    return Staged("multiview"), f"multiview, chosen by {config.reconstructor}"
