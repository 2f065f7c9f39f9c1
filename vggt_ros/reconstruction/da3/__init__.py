"""Depth Anything 3: a smaller network with weights for commercial use; from images of a window to its geometry.

The network is that of the package depth-anything-3 (Lin et al., 2025, arXiv:2511.10647). Two of its sizes, SMALL and
BASE, have weights under Apache-2.0.
"""
