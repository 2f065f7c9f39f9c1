"""A reconstructor for vggt_ros in a package of its own: the CPU reconstructor with smoothed depth."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from vggt_ros.reconstruction import create
from vggt_ros.settings import setting


@dataclass(frozen=True)
class SmoothSettings:
    """An example: multiview with smoothed depth."""

    size: int = setting(3, "Side of the median filter over the depth; 1: none.", unit="px", low=1, high=5)


class Smooth:
    """Smooths depth by a median; the edges of what is known stay as they are."""

    name, on_cpu, adjusted = "smooth", True, True

    def __init__(self, config):
        """Create the reconstructor that does the work."""
        self.size = config.of(SmoothSettings).size // 2 * 2 + 1
        self.inner = create("multiview", config)
        self.image_size = self.inner.image_size

    def reconstruct(self, window):
        """Solve a window; raises as multiview does."""
        solved = self.inner.reconstruct(window)
        smooth = np.array([cv2.medianBlur(depth, self.size) for depth in solved.depth])
        return replace(solved, depth=np.where(np.isnan(solved.depth) | np.isnan(smooth), solved.depth, smooth))
