"""The CPU reconstructor: optical flow, bundle adjustment, dense flow; no weights, no GPU."""

from vggt_ros.reconstruction.multiview.reconstructor import Multiview

__all__ = ["Multiview"]
