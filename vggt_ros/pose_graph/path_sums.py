"""What adds up along the paths of the spanning tree: length, angles, and how uncertain positions are at their ends."""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import scales
from vggt_ros.pose_graph.spanning_tree import SpanningTree
from vggt_ros.windows.alignment import WEAK_SCALE

VARIANCE, SCALE, COUNT = 2, slice(3, 8), 8
"""Rows of the sums, behind length and angles, and how many there are."""


def path_sums(tree: SpanningTree) -> Array:
    """Return what adds up along the path from the root to each row (8, n). Edges that constrain nothing add nothing.

    The length of the path in map units, the angles by which it turns in radians, and the variance of the position by
    the errors of the relative poses, not inflated and without lever arms, in map units squared. The other five are for
    `scale_variance`.
    """
    poses, parents = tree.poses, tree.poses[np.maximum(tree.parent, 0)]
    relative = np.einsum("nji,njk->nik", parents[:, :3, :3], poses[:, :3, :3])
    cosine = (np.trace(relative, axis1=1, axis2=2) / (scales(poses) * scales(parents)) - 1) / 2
    covariance = tree.edge_covariance
    # Smaller errors of the scale are part of the drift that a path allows.
    weak = np.maximum(covariance[:, 6, 6] - WEAK_SCALE**2, 0.0)
    at = parents[:, :3, 3].T
    sums = np.array([np.linalg.norm(poses[:, :3, 3] - parents[:, :3, 3], axis=1), np.arccos(np.clip(cosine, -1, 1)),
                     scales(poses) ** 2 * np.einsum("nii->n", covariance[:, 3:6, 3:6]),
                     weak, *(weak * at), weak * (at**2).sum(0)])
    sums[:, covariance[:, 0, 0] > 1] = 0.0
    sums[:, :1] = 0.0
    for branch, branch_parent in enumerate(tree.branch_parent.tolist()):
        rows = np.flatnonzero(tree.branch == branch)
        sums[:, rows] = np.cumsum(sums[:, rows], axis=1) + (sums[:, [branch_parent]] if branch_parent >= 0 else 0.0)
    return sums


def scale_variance(sums: Array, at: Array) -> Array:
    """Return the variance (n,) of positions (n, 3), map units squared, by weakly held scales along paths to them.

    All that comes after such a scale is nearer to the place where it begins, or farther away from it. `sums` (5, n) are
    those of `SCALE`: over the edges the variance of the scale, that times the place of the edge, and times its square.
    """
    return np.maximum((at**2).sum(1) * sums[0] - 2 * np.einsum("ni,in->n", at, sums[1:4]) + sums[4], 0.0)
