"""The CPU reconstructor against rendered ground truth, exact geometry and real sequences."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from data_folder import recorded
from numpy.typing import NDArray
from window_shape import cameras_of, shape_error

from vggt_ros.config import Config
from vggt_ros.geometry.poses import (
    matrix_from_quaternion,
    pose,
    so3_exp,
)
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions, Scene, adjust, undistorted
from vggt_ros.reconstruction.adjustment.lens import Lens, correction_maps, distorted
from vggt_ros.reconstruction.adjustment.shared_camera import SharedCamera
from vggt_ros.reconstruction.adjustment.sparse_bundle import (
    Observations,
    SparseScene,
    ray_angles,
    residuals,
    triangulated,
)
from vggt_ros.reconstruction.adjustment.triangulation import triangulate
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.reconstruction.multiview.dense.depth import interpolate, rank
from vggt_ros.reconstruction.multiview.reconstructor import Multiview
from vggt_ros.reconstruction.multiview.sfm.poses import solve_from_pair
from vggt_ros.reconstruction.multiview.window_geometry import downscale
from vggt_ros.synthetic import orbit, pinhole, room, turn
from vggt_ros.windows.keyframe import Keyframe, Window

Array = NDArray[np.float64]
SIZE = (480, 360)


def window_of(images: list[NDArray[np.uint8]], matrix: Array, first: int = 0, calibrated: bool = True) -> Window:
    """Return a window of images with one intrinsic matrix."""
    return Window(first, tuple(Keyframe(first + i, i * 10**8, image, matrix, calibrated)
                               for i, image in enumerate(images)))


@pytest.fixture(scope="module")
def rendered() -> tuple[list[NDArray[np.uint8]], list[NDArray[np.float32]], Array, Array]:
    """Eight views of a room with exact depth, poses and intrinsics."""
    scene, matrix = room(), pinhole(*SIZE)
    poses = orbit(60)[::3][:8]
    views = [scene.render(world_camera, matrix, SIZE) for world_camera in poses]
    return [view[0] for view in views], [view[1] for view in views], poses, matrix


@pytest.fixture(scope="module")
def solved(rendered: tuple) -> WindowGeometry:
    """The reconstruction of the rendered window."""
    images, _, _, matrix = rendered
    return Multiview(Config()).reconstruct(window_of(images, matrix))


def test_tracks_agree_with_the_poses(solved: WindowGeometry) -> None:
    tracks = solved.tracks
    camera_window = np.linalg.inv(solved.window_camera)
    order = np.argsort(tracks.points, kind="stable")
    points, point = np.unique(tracks.points[order], return_inverse=True)
    seen = Observations(tracks.keyframes[order], point, tracks.pixels[order], tracks.shift_rate[order])
    camera = SharedCamera(tracks.focal, np.zeros(2), tracks.radial, tracks.readout)
    scene = SparseScene(camera_window[:, :3, :3], camera_window[:, :3, 3], np.zeros((0, 3)), camera)
    scene, angle = triangulated(scene, seen), ray_angles(scene, seen)
    length = np.linalg.norm(residuals(scene, seen), axis=1)[(angle > np.radians(1))[seen.point]]
    assert len(points) > 200 and np.median(length) < 0.3 and np.percentile(length, 95) < 1.5


def test_poses_of_a_rendered_window(rendered: tuple, solved: WindowGeometry) -> None:
    position, rotation, _ = shape_error(solved.window_camera, rendered[2])
    assert solved.keyframe_ids == tuple(range(8))
    assert position < 0.003
    assert rotation < 0.1


def test_depth_has_the_scale_of_the_poses_and_confidence_ranks_its_errors(rendered: tuple,
                                                                           solved: WindowGeometry) -> None:
    _, depths, poses, _ = rendered
    _, _, scale = shape_error(solved.window_camera, poses)
    height, width = solved.depth.shape[1:]
    truth = np.array([cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST) for depth in depths])
    known = np.isfinite(solved.depth)
    assert known.mean() > 0.4
    assert ((solved.confidence > 0) == known).all()
    ratio = solved.depth[known] * scale / truth[known]
    assert abs(np.median(ratio) - 1) < 0.01
    error, confidence = np.abs(ratio - 1), solved.confidence[known]
    thirds = [np.median(error[(confidence > low) & (confidence <= low + 1 / 3)]) for low in (0.0, 1 / 3, 2 / 3)]
    assert thirds[2] < 0.015
    assert thirds[0] > thirds[1] > thirds[2]


def test_a_window_that_continues_nothing_takes_only_the_lens_from_earlier_ones(rendered: tuple,
                                                                                solved: WindowGeometry) -> None:
    images, _, _, matrix = rendered
    multiview = Multiview(Config())
    multiview.reconstruct(window_of(images[:4], matrix))
    again = multiview.reconstruct(window_of(images, matrix))
    assert again.report["continued"] == 0.0
    assert shape_error(again.window_camera, solved.window_camera)[0] < 0.002
    assert np.nanmedian(np.abs(again.depth / solved.depth - 1)) < 0.005


def test_a_window_continues_the_one_before_in_its_units(rendered: tuple) -> None:
    images, _, _, matrix = rendered
    poses = orbit(60)[::3][:11]
    images = images + [room().render(world_camera, matrix, SIZE)[0] for world_camera in poses[8:]]
    multiview = Multiview(Config())
    before = multiview.reconstruct(window_of(images[:8], matrix))
    window = window_of(images[5:], matrix, first=5)
    found = multiview.reconstruct(Window(5, window.keyframes, shared=(5, 6, 7)))
    assert found.report["continued"] == 1.0
    assert found.keyframe_ids == tuple(range(5, 11))
    assert shape_error(found.window_camera, poses[5:])[0] < 0.004
    steps = [np.linalg.norm(np.diff(cameras[:, :3, 3], axis=0), axis=1)
             for cameras in (before.window_camera[5:8], found.window_camera[:3])]
    np.testing.assert_allclose(steps[1], steps[0], rtol=0.01)
    assert (np.isfinite(found.depth).mean((1, 2)) > 0.3).all()


@pytest.mark.parametrize("factor", [1.1, 0.55, 1.8])
def test_a_guessed_focal_length_is_corrected(rendered: tuple, factor: float) -> None:
    """From 35 to 98 degrees of field of view; bundle adjustment alone corrects the first guess only."""
    images, _, poses, matrix = rendered
    guess = matrix.copy()
    guess[[0, 1], [0, 1]] *= factor
    found = Multiview(Config()).reconstruct(window_of(images, guess, calibrated=False))
    assert found.report["focal_px"] == pytest.approx(matrix[0, 0], rel=0.03)
    assert shape_error(found.window_camera, poses)[0] < 0.01


def test_the_distortion_of_a_wide_lens_is_found_with_its_focal_length() -> None:
    """89 degrees with barrel distortion, as of an action camera, where 65 are assumed."""
    scene, poses, wide = room(), orbit(60)[::3][:8], pinhole(640, 480, fov=89.0)
    canvas = wide + np.array([[0, 0, 160], [0, 0, 120], [0, 0, 0]])  # such a lens sees more than a pinhole
    x, y = correction_maps(wide, (640, 480), 0.3, forward=False)
    images = [cv2.remap(scene.render(world_camera, canvas, (960, 720))[0], x + 160, y + 120, cv2.INTER_LINEAR)
              for world_camera in poses]
    found = Multiview(Config()).reconstruct(window_of(images, pinhole(640, 480), calibrated=False))
    assert found.report["focal_px"] == pytest.approx(wide[0, 0], rel=0.05)
    assert found.report["radial"] == pytest.approx(0.3, rel=0.4)
    assert shape_error(found.window_camera, poses)[0] < 0.01


def test_pure_rotation_is_refused() -> None:
    scene, matrix = room(), pinhole(*SIZE)
    images = [scene.render(world_camera, matrix, SIZE)[0] for world_camera in turn(8, degrees=30.0)]
    with pytest.raises(ReconstructionRefused, match=r"no parallax.* px"):
        Multiview(Config()).reconstruct(window_of(images, matrix))


def test_images_without_texture_or_without_a_common_view_are_refused(rendered: tuple) -> None:
    images, _, _, matrix = rendered
    for bad in ([np.zeros_like(images[0])] * 4, [images[0]], [images[0], images[0][::-1, ::-1].copy()]):
        with pytest.raises(ReconstructionRefused):
            Multiview(Config()).reconstruct(window_of(bad, matrix))


def test_a_keyframe_of_another_scene_is_left_out(rendered: tuple) -> None:
    images, _, poses, matrix = rendered
    outlier = room(seed=5).render(orbit(60)[40], matrix, SIZE)[0]
    found = Multiview(Config()).reconstruct(window_of([*images[:6], outlier], matrix))
    assert found.keyframe_ids == tuple(range(6))
    assert shape_error(found.window_camera, poses[:6])[0] < 0.005


def test_images_in_between_that_look_elsewhere_do_not_break_a_window(rendered: tuple) -> None:
    images, _, poses, matrix = rendered
    elsewhere = [room(seed=5).render(orbit(60)[place], matrix, SIZE)[0] for place in (20, 40)]
    found = Multiview(Config()).reconstruct(window_of([*images[:3], *elsewhere, *images[3:6]], matrix))
    assert found.keyframe_ids == (0, 1, 2, 5, 6, 7)
    assert shape_error(found.window_camera, poses[:6])[0] < 0.005


def exact_scene(seed: int = 0) -> tuple[Scene, Array]:
    """Return six cameras, 200 points in front of them, and their exact projections."""
    rng = np.random.default_rng(seed)
    rotation = np.array([so3_exp(0.05 * i * np.array([0.2, 1.0, 0.1])) for i in range(6)])
    translation = np.array([[-0.1 * i, 0.02 * i, 0.01 * i * i] for i in range(6)])
    points = rng.uniform([-1, -1, 2], [1, 1, 6], (200, 3))
    scene = Scene(rotation, translation, points, np.full((6, 2), 400.0))
    return scene, scene.residuals(np.zeros((200, 6, 2)))


@pytest.mark.parametrize("outliers", [0.0, 0.1])
def test_bundle_adjustment_finds_the_exact_scene(outliers: float) -> None:
    scene, observations = exact_scene()
    rng = np.random.default_rng(1)
    wrong = rng.random((200, 6)) < outliers
    observations = observations + wrong[..., None] * rng.uniform(-60, 60, (200, 6, 2))
    start = Scene(np.array([so3_exp(rng.normal(0, 0.005, 3)) @ rotation for rotation in scene.rotation]),
                  scene.translation + rng.normal(0, 0.01, (6, 3)), scene.points + rng.normal(0, 0.05, (200, 3)),
                  scene.focal)
    found = adjust(start, observations, np.ones((200, 6), bool), AdjustmentOptions(60, 1e-12))
    assert shape_error(cameras_of(found), cameras_of(scene))[0] < (1e-7 if not outliers else 1e-3)


def test_bundle_adjustment_finds_the_focal_length() -> None:
    scene, observations = exact_scene()
    start = Scene(scene.rotation, scene.translation, scene.points, scene.focal * 1.08)
    found = adjust(start, observations, np.ones((200, 6), bool), AdjustmentOptions(100, 1e-12, focal_sigma=10.0))
    np.testing.assert_allclose(found.focal, 400.0, rtol=1e-3)


def test_bundle_adjustment_finds_the_radial_distortion_that_a_calibration_left() -> None:
    scene, observations = exact_scene()
    seen = distorted(observations, scene.focal, -0.03)
    np.testing.assert_allclose(undistorted(seen, scene.focal, -0.03), observations, atol=0.01)
    found = adjust(scene, seen, np.ones((200, 6), bool), AdjustmentOptions(100, 1e-12, radial_sigma=10.0))
    assert found.radial == pytest.approx(-0.03, abs=1e-3)


@pytest.mark.parametrize(("radial", "applied"), [(-0.03, True), (-0.006, False)])
def test_only_a_distortion_that_is_larger_than_windows_differ_is_corrected(radial: float, applied: bool) -> None:
    lens, everything = Lens(1.0, 0.0, 0.0, 0.02), np.ones((200, 6), bool)
    for seed in range(15):
        scene, observations = exact_scene(seed)
        seen = undistorted(distorted(observations, scene.focal, radial), scene.focal, lens.applied)
        start = replace(scene, radial=lens.radial - lens.applied)
        found = adjust(start, seen, everything, AdjustmentOptions(60, 1e-5, radial_sigma=lens.radial_sigma))
        lens = lens.updated(found, seen, everything, np.ones(6, bool), scene.focal)
    assert lens.radial == pytest.approx(radial, rel=0.35)
    assert 0 < lens.radial_sigma < 0.015
    assert bool(lens.applied) == applied


def test_triangulation_and_incremental_solution_of_exact_tracks() -> None:
    scene, observations = exact_scene()
    visible = np.random.default_rng(2).random((200, 6)) < 0.8
    visible[visible.sum(1) < 2] = True
    points, angle = triangulate(scene, np.where(visible[..., None], observations, 0.0), visible)
    np.testing.assert_allclose(points, scene.points, atol=1e-6)
    assert (angle > 0).all()
    found = solve_from_pair(np.where(visible[..., None], observations, 0.0), visible, scene.focal, (0, 4), seed=0)
    assert found is not None and found.registered.all()
    assert shape_error(cameras_of(found.scene), cameras_of(scene))[0] < 1e-4


def test_sparse_points_are_kept_by_interpolation() -> None:
    matrix = np.array([[200.0, 0, 79.5], [0, 200.0, 59.5], [0, 0, 1]])
    rng = np.random.default_rng(3)
    image = rng.uniform([5, 5], [154, 114], (800, 2))
    depth = 1.0 / (0.3 + 0.001 * image[:, 0])
    points = np.concatenate([(image - matrix[:2, 2]) / 200.0 * depth[:, None], depth[:, None]], 1)
    dense = interpolate(points, matrix, (120, 160))
    expected = 0.3 + 0.001 * np.arange(160)
    assert np.abs(dense[10:110, 10:150] / expected[10:150] - 1).max() < 0.03


def test_rank_is_uniform_and_falls_with_sigma() -> None:
    sigma = np.array([[0.3, np.nan, 0.1], [0.2, 0.4, np.nan]], np.float32)
    np.testing.assert_allclose(rank(sigma), [[0.5, 0.0, 1.0], [0.75, 0.25, 0.0]])


def test_reduced_intrinsics_project_to_the_same_place() -> None:
    matrix = np.array([[400.0, 0, 239.5], [0, 410.0, 179.5], [0, 0, 1]])
    small, reduced = downscale([np.zeros((360, 480), np.uint8)], matrix[None], 160)
    assert small.shape == (1, 120, 160)
    at = matrix @ [0.1, 0.2, 1.0]
    at_small = reduced[0] @ [0.1, 0.2, 1.0]
    np.testing.assert_allclose((at[:2] + 0.5) / 3, at_small[:2] + 0.5)


def test_the_setting_selects_the_reconstructor() -> None:
    reconstructor, reason = create_reconstructor(Config(reconstructor="multiview"))
    assert reconstructor.name == "multiview" and reason


@pytest.mark.parametrize(("name", "start", "step"), [("euroc_mh01_start", 40, 2), ("kitti07_first160", 60, 1)])
def test_real_windows_are_accurate_to_one_percent(name: str, start: int, step: int) -> None:
    folder = recorded(name)
    values = np.loadtxt(folder / "calibration.txt")
    matrix = np.array([[values[0], 0, values[2]], [0, values[1], values[3]], [0, 0, 1.0]])
    listing = [line.split() for line in (folder / "rgb.txt").read_text().splitlines() if line[0] != "#"]
    truth = {f"{row[0]:.3f}": pose(matrix_from_quaternion(row[4:8]), row[1:4])
             for row in np.loadtxt(folder / "groundtruth.txt")}
    chosen = listing[start:start + 8 * step:step]
    images = [cv2.undistort(cv2.imread(str(folder / file)), matrix, values[4:])[..., ::-1].copy() for _, file in chosen]
    found = Multiview(Config()).reconstruct(window_of(images, matrix))
    poses = np.array([truth[f"{float(stamp):.3f}"] for stamp, _ in chosen])
    position, rotation, _ = shape_error(found.window_camera, poses)
    assert len(found.keyframe_ids) == 8
    assert position < 0.01
    assert rotation < 0.3


def test_tracks_without_a_common_geometry_give_no_solution() -> None:
    rng = np.random.default_rng(4)
    for _ in range(5):
        noise = rng.uniform(-150, 150, (80, 4, 2))
        found = solve_from_pair(noise, np.ones((80, 4), bool), np.full((4, 2), 400.0), (0, 3), seed=0)
        assert found is None or found.inliers.mean() < 0.5
