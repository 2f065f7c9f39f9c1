"""A window whose scale is weakly held: what the adjustment says of it, and what a loop makes of it in the graph."""

import numpy as np
import pytest

from vggt_ros.config import AlignmentConfig
from vggt_ros.geometry.poses import Sim3, inverse, pose, so3_exp
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.pose_graph.relative_poses import relative_poses
from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions, Scene, adjust
from vggt_ros.reconstruction.adjustment.covariance import scale_sigma
from vggt_ros.windows.alignment import View, align
from vggt_ros.windows.solution import Edge, MapKeyframe

INTRINSICS = np.array([[90.0, 0, 51.5], [0, 90.0, 38.5], [0, 0, 1]])
STEP, SHARED, WRONG = 5, 3, 1.7
"""New keyframes and shared ones of a window; error of the scale after a turn on the spot."""


def at_a_wall(turns: bool) -> tuple[Scene, np.ndarray]:
    """Return 12 cameras in front of a wall 3 m away, the first six known, and which of the points they see (n, 12).

    Known cameras step sideways by 10 cm. The others go on, or turn by 12 degrees a step instead and move by 1 cm: the
    wall that comes into view has 25 points, which are seen from cameras that are almost at the same place.
    """
    rng, new = np.random.default_rng(0), np.maximum(np.arange(12) - 5, 0)
    rotation = np.array([so3_exp(np.array([0, -np.radians(12.0 * i) if turns else 0.0, 0])) for i in new])
    centers = np.stack([0.1 * np.minimum(np.arange(12), 5) + (0.01 if turns else 0.1) * new, 0.01 * new, 0 * new], 1)
    angle, height = np.radians(rng.uniform(-25, 25, 150)), rng.uniform(-0.3, 0.3, 150)
    if turns:
        angle = np.concatenate([angle, np.radians(rng.uniform(25, 80, 25))])
        height = np.concatenate([height, rng.uniform(-0.3, 0.3, 25)])
    distance = 3 + rng.normal(0, 0.1, len(angle))
    points = np.stack([distance * np.sin(angle), distance * height, distance * np.cos(angle)], 1)
    scene = Scene(rotation, -np.einsum("sij,sj->si", rotation, centers), points, np.full((12, 2), 400.0))
    in_cameras = scene.in_cameras()
    return scene, (in_cameras[..., 2] > 0.1) & (abs(in_cameras[..., 0]) < 0.55 * in_cameras[..., 2])


@pytest.mark.parametrize(("turns", "least", "most"), [(False, 0.0, 0.01), (True, 0.03, 0.3)])
def test_the_uncertainty_of_the_scale_is_that_of_adjusted_scenes(turns: bool, least: float, most: float) -> None:
    """Against the scatter of the depths at the newest cameras over 25 adjustments with other noise of 0.2 pixels."""
    scene, visible = at_a_wall(turns)
    fixed, newest = np.arange(12) < 6, np.arange(12) >= 9
    exact, rng = scene.residuals(np.zeros((*visible.shape, 2))), np.random.default_rng(1)
    expected = scale_sigma(scene, exact, visible, fixed, newest)
    found = []
    for _ in range(25):
        noisy = adjust(scene, exact + rng.normal(0, 0.2, exact.shape), visible,
                       AdjustmentOptions(15, 1e-5, loss_scale=20.0), fixed)
        ratio = np.log(np.maximum(noisy.in_cameras()[..., 2], 0.05) / scene.in_cameras()[..., 2].clip(0.05))
        found.append(np.mean([np.median(ratio[visible[:, s], s]) for s in np.flatnonzero(newest)]))
    assert least < expected < most
    assert 0.5 < 0.2 * expected / np.std(found) < 2.0


def way(count: int, turn: int) -> list[np.ndarray]:
    """Return the camera poses of a walk in a circle with steps of 0.6 m; from `turn` on, the camera stands three times.

    The step after that is of 0.1 m.
    """
    steps, by = np.full(count, 0.6), so3_exp(np.array([0, -2 * np.pi / count, 0]))
    steps[turn:turn + 4] = [0, 0, 0, 0.1]
    poses = [np.eye(4)]
    for step in steps[1:]:
        poses.append(poses[-1] @ pose(by, np.array([0.0, 0.0, step])))
    return poses


def view(keyframe: int, camera: np.ndarray, unit: float, scale: float = 1.0) -> View:
    """Return a keyframe whose depth is 2 m in a `unit`; without depth if that is NaN."""
    depth = np.full((78, 104), 2 * unit, np.float16)
    confidence = np.where(np.isfinite(depth), 200, 0).astype(np.uint8)
    return View(camera, MapKeyframe(keyframe, keyframe, INTRINSICS, depth, confidence,
                                    np.zeros((78, 104, 3), np.uint8)), scale)


def graph_of(truth: list[np.ndarray], turn: int, scale_sigma: float) -> PoseGraph:
    """Return the graph of windows that go on with a wrong scale after the turn, said as uncertain."""
    number, center = np.arange(len(truth)), truth[turn][:3, 3]
    unit = np.where(number > turn + 2, WRONG, 1.0)
    seen = [pose(camera[:3, :3], center + s * (camera[:3, 3] - center))
            for camera, s in zip(truth, unit, strict=True)]
    depth = np.where((number >= turn) & (number <= turn + 2), np.nan, unit)
    graph = PoseGraph(stride=STEP)
    graph.add_submap(0, Sim3.identity())
    for first in range(0, len(truth) - SHARED, STEP):
        ids = range(first, first + STEP + SHARED)
        window = {k: view(k, inverse(seen[first]) @ seen[k], depth[k]) for k in ids}
        shared = [k for k in ids if k in graph.map_node]
        reference = graph.map_node[shared[-1]].inverse()
        known = {k: view(k, (near := reference @ graph.map_node[k]).apply_pose(np.eye(4)), depth[k], near.scale)
                 for k in shared}
        alignment = align(known, window, AlignmentConfig(), same_unit=True,
                          scale_sigma=scale_sigma if first == turn else 0.0) if first else None
        graph.add_nodes([Edge(r.first, r.second, "overlap", r.first_second, r.covariance)
                         for r in relative_poses(window, known if first else None, alignment) if not r.known])
    return graph


@pytest.mark.parametrize(("count", "turn", "scale_sigma", "repaired"),
                         [(33, 15, 0.5, True), (33, 15, 0.0, False), (93, 45, 0.5, True)])
def test_a_loop_repairs_the_scale_that_was_assumed_after_a_turn(count: int, turn: int, scale_sigma: float,
                                                                repaired: bool) -> None:
    """The loop is accepted, also after a long way, and the whole correction is made where the scale was assumed."""
    truth, last = way(count, turn), count - 1
    graph = graph_of(truth, turn, scale_sigma)
    loop = graph.add_loop(0, last, Sim3.from_pose(truth[last], 1 / WRONG),
                          np.diag([0.005**2] * 3 + [0.02**2] * 3 + [0.01**2]))
    assert loop.accepted == repaired, loop.reason
    error = [float(np.linalg.norm(graph.map_node[k].translation - truth[k][:3, 3])) for k in range(count)]
    assert (max(error) < 0.02 * count * 0.6) == repaired


def test_an_uncertain_scale_leaves_the_newest_shared_camera_where_it_is() -> None:
    """The variance of its logarithm is added, about that camera's center."""
    reference = {k: view(k, pose(np.eye(3), np.array([0.2 * k, 0, 0])), 1.0) for k in range(3)}
    window = {k: view(k, pose(np.eye(3), np.array([0.2 * k, 0, 0])), 1.0) for k in range(5)}
    plain, uncertain = (align(reference, window, AlignmentConfig(), scale_sigma=s).covariance for s in (0.0, 0.2))
    at_center = np.hstack([np.zeros((3, 3)), np.eye(3), window[2].camera[:3, 3:]])
    assert uncertain[6, 6] - plain[6, 6] == pytest.approx(0.04)
    np.testing.assert_allclose(at_center @ (uncertain - plain) @ at_center.T, 0.0, atol=1e-12)
