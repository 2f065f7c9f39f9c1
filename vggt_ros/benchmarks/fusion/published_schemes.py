"""Published schemes to fuse windows, reimplemented from papers and configurations, for comparison.

(a) Camera centers: each window is moved onto the one before by Umeyama's alignment of the shared cameras' positions.

(b) Dense points: VGGT-Long (Deng et al., arXiv:2507.16443) and DA3-Streaming, which shares its back end: shared points
with more than a tenth of the median confidence, Sim(3) by iteratively reweighted least squares, Huber weights times
confidence, delta 0.1, 5 iterations, tolerance 1e-9; loops by a joint window of both places; then a batch
Levenberg-Marquardt over the windows' similarities, equal weights, no robust loss, 30 iterations, lambda 1e-6.

(c) SL(4): VGGT-SLAM 2.0 (Maggio, Carlone, arXiv:2601.19887): one node a frame; consecutive frames of a window are
related by their relative pose, a shared frame of two windows by the homography K_before^-1 K_after times a scale, the
median ratio of the distances of its points, and likewise a loop's joint window; sigma 0.05 in all 15 directions;
Levenberg-Marquardt without robust loss. Camera poses are read off the homographies by RQ decomposition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import gtsam
import numpy as np

from vggt_ros.benchmarks.fusion.simulated_windows import SimulatedLoop, SimulatedWindow
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array, Sim3, inverse, orthonormalize, pose, umeyama
from vggt_ros.windows.alignment import View

Poses = dict[int, Array]
"""Keyframe id to its pose (4, 4) in the map."""


def camera_centers(windows: Sequence[SimulatedWindow], loops: Sequence[SimulatedLoop] = ()) -> tuple[Poses, list[bool]]:
    """Fuse windows by scheme (a); loops are not used. Returns poses and, for each loop, whether it was used."""
    def relation(before: SimulatedWindow, after: SimulatedWindow) -> Sim3:
        shared = sorted(before.views.keys() & after.views.keys())
        centers = [np.array([side.views[k].camera[:3, 3] for k in shared]) for side in (after, before)]
        return umeyama(centers[0], centers[1])

    return keyframe_poses(windows, _chain_windows(windows, relation)), [False] * len(loops)


def dense_points(windows: Sequence[SimulatedWindow], loops: Sequence[SimulatedLoop] = ()) -> tuple[Poses, list[bool]]:
    """Fuse windows by scheme (b), with every loop; returns as `camera_centers` does."""
    map_windows = _chain_windows(windows, align_points)
    index = {window.id: row for row, window in enumerate(windows)}
    if loops:
        graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
        equal_noise = gtsam.noiseModel.Unit.Create(7)
        graph.add(gtsam.PriorFactorSimilarity3(0, to_gtsam(map_windows[0]), gtsam.noiseModel.Isotropic.Sigma(7, 1e-6)))
        for row, map_window in enumerate(map_windows):
            values.insert(row, to_gtsam(map_window))
            if row:
                step = map_windows[row - 1].inverse() @ map_window
                graph.add(gtsam.BetweenFactorSimilarity3(row - 1, row, to_gtsam(step), equal_noise))
        for loop in loops:
            first, second = index[loop.first], index[loop.second]
            relation = align_points(windows[first], loop.joint) @ align_points(windows[second], loop.joint).inverse()
            graph.add(gtsam.BetweenFactorSimilarity3(first, second, to_gtsam(relation), equal_noise))
        parameters = gtsam.LevenbergMarquardtParams()
        parameters.setMaxIterations(30)
        parameters.setlambdaInitial(1e-6)
        solved = gtsam.LevenbergMarquardtOptimizer(graph, values, parameters).optimize()
        map_windows = []
        for row in range(len(windows)):
            s = solved.atSimilarity3(row)
            map_windows.append(Sim3(s.scale(), s.rotation().matrix(), s.scale() * np.asarray(s.translation())))
    return keyframe_poses(windows, map_windows), [True] * len(loops)


def align_points(before: SimulatedWindow, after: SimulatedWindow) -> Sim3:
    """Return `before_after` by Huber's iteratively reweighted least squares on all shared points."""
    shared = sorted(before.views.keys() & after.views.keys())
    source, target = (np.concatenate([_points(side.views[k]) for k in shared]) for side in (after, before))
    sides = [np.concatenate([side.views[k].keyframe.confidence.ravel() for k in shared]).astype(float)
             for side in (after, before)]
    known = np.isfinite(source).all(1) & np.isfinite(target).all(1)
    known &= (sides[0] > 0.1 * np.median(sides[0])) & (sides[1] > 0.1 * np.median(sides[1]))
    source, target = source[known], target[known]
    confidence = np.sqrt(sides[0] * sides[1])[known]
    weights, before_residual = confidence, np.inf
    found = Sim3.identity()
    for _ in range(6):
        found = _weighted_umeyama(source, target, weights)
        residual = np.linalg.norm(found.apply(source) - target, axis=1)
        if abs(before_residual - residual.mean()) < 1e-9:
            break
        before_residual = float(residual.mean())
        weights = confidence * np.where(residual <= 0.1, 1.0, 0.1 / np.maximum(residual, 1e-12))
    return found


def special_linear(windows: Sequence[SimulatedWindow], loops: Sequence[SimulatedLoop] = ()) -> tuple[Poses, list[bool]]:
    """Fuse windows by scheme (c), with every loop; returns as `camera_centers` does."""
    graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    nodes: dict[tuple[int, int], int] = {}
    noise = gtsam.noiseModel.Isotropic.Sigma(15, 0.05)

    def insert(window: SimulatedWindow, keyframe: int, homography: Array) -> int:
        node = len(nodes)
        nodes[window.id, keyframe] = node
        values.insert(node, gtsam.SL4(_with_unit_determinant(homography)))
        return node

    def add_between_factor(first: int, second: int, homography: Array) -> None:
        graph.add(gtsam.BetweenFactorSL4(first, second, gtsam.SL4(_with_unit_determinant(homography)), noise))

    def overlap_homography(window: SimulatedWindow, before: SimulatedWindow, keyframe: int) -> Array:
        """Return the homography of a keyframe in one window to the same one in another."""
        here, there = before.views[keyframe], window.views[keyframe]
        homography = np.eye(4)
        homography[:3, :3] = np.linalg.solve(here.keyframe.intrinsics, there.keyframe.intrinsics)
        homography[:3, :3] *= np.nanmedian(_distances(here) / _distances(there, homography[:3, :3]))
        return homography

    for number, window in enumerate(windows):
        keyframes = sorted(window.views)
        if number == 0:
            insert(window, keyframes[0], np.eye(4))
            graph.add(gtsam.PriorFactorSL4(0, gtsam.SL4(np.eye(4)), gtsam.noiseModel.Isotropic.Sigma(15, 1e-6)))
        else:
            before = windows[number - 1]
            shared = min(window.views.keys() & before.views.keys())
            start, relation = nodes[before.id, shared], overlap_homography(window, before, shared)
            first = insert(window, shared, values.atSL4(start).matrix() @ relation)
            add_between_factor(start, first, relation)
            keyframes = keyframes[keyframes.index(shared):]
        for previous, keyframe in pairwise(keyframes):
            step = inverse(window.views[previous].camera) @ window.views[keyframe].camera
            start = nodes[window.id, previous]
            add_between_factor(start, insert(window, keyframe, values.atSL4(start).matrix() @ step), step)
    by_id = {window.id: window for window in windows}
    for loop in loops:
        first, second = (next(k for k in loop.joint.views if (w, k) in nodes) for w in (loop.first, loop.second))
        joint_pose = inverse(loop.joint.views[first].camera) @ loop.joint.views[second].camera
        relation = overlap_homography(loop.joint, by_id[loop.first], first) @ joint_pose @ np.linalg.inv(
            overlap_homography(loop.joint, by_id[loop.second], second))
        add_between_factor(nodes[loop.first, first], nodes[loop.second, second], relation)
    if loops:
        values = gtsam.LevenbergMarquardtOptimizer(graph, values, gtsam.LevenbergMarquardtParams()).optimize()
    poses: Poses = {}
    for (_, keyframe), node in nodes.items():
        poses.setdefault(keyframe, _camera_pose(values.atSL4(node).matrix()))
    return poses, [True] * len(loops)


def _chain_windows(
    windows: Sequence[SimulatedWindow], relation: Callable[[SimulatedWindow, SimulatedWindow], Sim3]
) -> list[Sim3]:
    map_windows = [Sim3.identity()]
    for before, after in pairwise(windows):
        map_windows.append(map_windows[-1] @ relation(before, after))
    return map_windows


def keyframe_poses(windows: Sequence[SimulatedWindow], map_windows: Sequence[Sim3]) -> Poses:
    """Return the poses of keyframes, each by the first window that has it."""
    poses: Poses = {}
    for window, map_window in zip(windows, map_windows, strict=True):
        for keyframe, view in window.views.items():
            if keyframe not in poses:
                poses[keyframe] = map_window.apply_pose(view.camera)
    return poses


def _points(view: View) -> Array:
    """Return the points (h w, 3) of a view in its window."""
    depth = view.depth().astype(np.float64)
    rows, columns = np.indices(depth.shape)
    rays = pixel_rays(view.keyframe.intrinsics, columns.ravel(), rows.ravel())
    return np.asarray(rays * depth.ravel()[:, None] @ view.camera[:3, :3].T + view.camera[:3, 3])


def _weighted_umeyama(source: Array, target: Array, weights: Array) -> Sim3:
    """Return Umeyama's similarity with weights (n,)."""
    weight = (weights / weights.sum())[:, None]
    centroid, target_centroid = (weight * source).sum(0), (weight * target).sum(0)
    u, singular, vt = np.linalg.svd((weight * (target - target_centroid)).T @ (source - centroid))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ np.diag(signs) @ vt
    scale = float((singular * signs).sum() / (weight * (source - centroid) ** 2).sum())
    return Sim3(scale, rotation, target_centroid - scale * rotation @ centroid)


def _distances(view: View, linear: Array | None = None) -> Array:
    """Return the distances (h w,) of a view's points from its camera, after a linear map (3, 3) of camera space."""
    points = (_points(view) - view.camera[:3, 3]) @ view.camera[:3, :3]
    return np.linalg.norm(points if linear is None else points @ linear.T, axis=1)


def _with_unit_determinant(homography: Array) -> Array:
    """Return a homography (4, 4) with determinant 1."""
    return np.asarray(homography / np.linalg.det(homography) ** 0.25)


def _camera_pose(homography: Array) -> Array:
    """Return the camera's pose (4, 4) in the map from the homography of its frame."""
    camera = homography / homography[3, 3]
    projection = np.linalg.inv(camera[:3, :3])
    # RQ decomposition: projection = K R.
    q, r = np.linalg.qr(projection[::-1].T)
    rotation, intrinsics = q.T[::-1], r.T[::-1, ::-1]
    rotation = np.diag(np.sign(np.diag(intrinsics))) @ rotation
    return pose(orthonormalize(rotation.T), camera[:3, 3])


def to_gtsam(sim3: Sim3) -> gtsam.Similarity3:
    """Return a similarity in gtsam's convention: p' = s (R p + t)."""
    return gtsam.Similarity3(gtsam.Rot3(orthonormalize(sim3.rotation)), sim3.translation / sim3.scale, sim3.scale)
