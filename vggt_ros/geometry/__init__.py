"""Geometry that the other sub-packages share: cameras, rigid and similarity transforms, PnP and triangulation.

What goes in are numpy arrays of points, pixels, poses and intrinsics, and CameraInfo messages and images for `camera`.
What comes out are poses named `target_source`, `Sim3` similarities, covariances and rectified pinhole images.
"""
