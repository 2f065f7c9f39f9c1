"""Settings of the CPU reconstructor; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from vggt_ros.settings import setting


@dataclass(frozen=True)
class MultiviewConfig:
    """The CPU reconstructor."""

    width: int = setting(800, "Longest side of its images; smaller images are never enlarged.",
                         unit="px", low=320, high=1920)
    corners: int = setting(600, "Corners detected per keyframe.", low=100, high=5000)
    focal_sigma: float = setting(0.0, "Relative sigma of a calibrated focal length; 0: it is not estimated.",
                                 unit="fraction", low=0.0, high=0.1)
    radial_sigma: float = setting(0.02, "Sigma of the radial distortion that a calibration leaves, at one focal length "
                                  "from the principal point; 0: it is not estimated.",
                                  unit="fraction", low=0.0, high=0.2)
    readout: float = setting(-1.0, "Readout time of a rolling shutter, first to last row; negative: estimated.",
                             unit="s", low=-1.0, high=0.1)
    depth_width: int = setting(320, "Width of its depth maps.", unit="px", low=80, high=800)
