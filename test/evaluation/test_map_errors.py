"""Errors of a dense map on rendered rooms: known displacements, missing parts, a free scale, sensor depth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree

from vggt_ros.cli import evaluate
from vggt_ros.evaluation.errors import EvaluationError
from vggt_ros.evaluation.map_errors import MAX_DISTANCE, VOXEL, map_accuracy, true_cloud, voxel_means
from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import Sim3, inverse, so3_exp
from vggt_ros.storage.files import write_ply, write_trajectory
from vggt_ros.synthetic import laps, pinhole, room
from vggt_ros.synthetic.sequence import RenderedSequence
from vggt_ros.windows.point_cloud import PointCloud

SEQUENCE = RenderedSequence("room", room(), laps(24), (320, 240))
MAP_WORLD = Sim3(0.4, so3_exp(np.array([0.3, -1.0, 2.0])), np.array([3.0, 2.0, 1.0]))
OURS = SEQUENCE.truth[0], np.array([MAP_WORLD.apply_pose(matrix) for matrix in SEQUENCE.truth[1]])


@pytest.fixture(scope="module")
def world():
    return true_cloud(SEQUENCE.depths(), SEQUENCE.camera, SEQUENCE.truth)


def wall(offset=0.0, length=2.0):
    """Return points every 5 mm on a wall of `length` x 1 m that is moved by `offset` along its normal."""
    y, z = np.mgrid[0.002:length:0.005, 0.002:1:0.005]  # not on the borders of voxels
    return np.stack([np.full(y.size, 0.011 + offset), y.ravel(), z.ravel()], 1)


def test_an_exact_map_in_another_frame_and_scale_has_no_error(world):
    figures = map_accuracy(MAP_WORLD.apply(world), OURS, SEQUENCE.truth, world)
    assert figures.accuracy.rmse < 1e-3 and figures.completeness.rmse < 1e-3 and figures.f_score == 1
    assert figures.scale == pytest.approx(1 / 0.4) and figures.true_points == len(world)


def test_depth_images_show_the_faces_of_the_room(world):
    """Every true point lies on a rectangle of the scene, to the size of a voxel."""
    off = np.full(len(world), np.inf)
    for face in SEQUENCE.scene.faces:
        normal = np.cross(face.right, face.down)
        off = np.minimum(off, np.abs((world - face.corner) @ normal / np.linalg.norm(normal)))
    assert np.percentile(off, 95) < 1e-3  # means of voxels at edges are off
    assert len(world) > 10_000


def test_a_known_displacement_is_measured():
    """A wall that is 3 cm off, another half a meter and more off, and a third that is not in the map."""
    figures = map_accuracy(wall(0.03), SEQUENCE.truth, SEQUENCE.truth, voxel_means(wall()))
    for one in (figures.accuracy, figures.stored, figures.completeness):
        assert one.rmse == pytest.approx(0.03, abs=2e-3) and one.median == pytest.approx(0.03, abs=2e-3)
    assert figures.chamfer == pytest.approx(0.03, abs=2e-3) and figures.f_score == 1
    figures = map_accuracy(wall(2.0), SEQUENCE.truth, SEQUENCE.truth, voxel_means(wall()))
    assert figures.chamfer == MAX_DISTANCE and figures.f_score == 0
    half = map_accuracy(wall(0, 1.0), SEQUENCE.truth, SEQUENCE.truth, voxel_means(wall()))
    assert half.accuracy.near == 1 and half.completeness.near == pytest.approx(0.525, abs=0.02)
    assert half.f_score == pytest.approx(2 * half.completeness.near / (1 + half.completeness.near))


def test_dense_points_count_as_much_as_sparse_ones():
    """A hundred times the points on the worse half of a map change only the errors of the stored points."""
    bad = wall(0.04)[wall()[:, 1] < 1]
    points = np.concatenate([wall()[wall()[:, 1] >= 1], np.repeat(bad, 100, 0)])
    figures = map_accuracy(points, SEQUENCE.truth, SEQUENCE.truth, voxel_means(wall()))
    assert figures.accuracy.rmse == pytest.approx(0.04 / np.sqrt(2), rel=0.05)
    assert figures.stored.rmse == pytest.approx(0.04, rel=0.05)


def test_distances_are_those_of_all_pairs():
    """Against distances by brute force, with the cap."""
    rng = np.random.default_rng(0)
    ours, true = rng.normal(size=(300, 3)), rng.normal(size=(400, 3))
    figures = map_accuracy(ours, SEQUENCE.truth, SEQUENCE.truth, true)
    pairs = np.linalg.norm(ours[:, None] - true[None], axis=2)
    assert figures.accuracy.rmse == pytest.approx(np.sqrt(np.mean(np.minimum(pairs.min(1), 0.5) ** 2)), rel=1e-3)
    assert figures.completeness.median == pytest.approx(np.median(np.minimum(pairs.min(0), 0.5)), rel=1e-3)


def test_voxels_have_their_mean():
    points = np.random.default_rng(0).uniform(-1, 1, (5000, 3))
    means = voxel_means(points, 0.5)
    assert len(means) == 64
    near = points[(points >= 0).all(1) & (points < 0.5).all(1)].mean(0)
    assert np.linalg.norm(means - near, axis=1).min() < 1e-12


def test_the_depth_of_a_distorted_camera_is_undistorted():
    """A plane at 2 m through a distorting lens stays a plane, and gets as wide as the lens shows."""
    camera = Camera(320, 240, pinhole(320, 240), (-0.3, 0.1, 0.0, 0.0, 0.0))
    identity = np.array([0], np.int64), np.eye(4)[None]
    found = true_cloud([(0, np.full((240, 320), 2.0, np.float32))], camera, identity)
    plain = true_cloud([(0, np.full((240, 320), 2.0, np.float32))], Camera(320, 240, pinhole(320, 240)), identity)
    assert np.allclose(found[:, 2], 2) and np.abs(found[:, 0]).max() > 1.05 * np.abs(plain[:, 0]).max()


def test_a_file_of_a_map_is_evaluated(tmp_path, capsys, world, monkeypatch):
    cloud = MAP_WORLD.apply(world).astype(np.float32)
    write_ply(tmp_path / "map.ply", PointCloud(cloud, np.zeros((len(cloud), 3), np.uint8),
                                               np.ones(len(cloud), np.float32), np.zeros_like(cloud)))
    monkeypatch.setattr(evaluate, "open_sequence", lambda path: SEQUENCE)
    arguments = ["--map", str(tmp_path / "map.ply"), "room"]
    assert evaluate.main(arguments) == 1 and "trajectory.txt" in capsys.readouterr().err
    write_trajectory(tmp_path / "trajectory.txt", *OURS)
    assert evaluate.main([*arguments, "--json", str(tmp_path / "f.json")]) == 0
    assert "F-score 100 % at 5 cm" in capsys.readouterr().out and '"chamfer"' in (tmp_path / "f.json").read_text()


def test_a_map_needs_depth_and_points(world):
    with pytest.raises(EvaluationError, match="no depth images"):
        true_cloud([], SEQUENCE.camera, SEQUENCE.truth)
    with pytest.raises(EvaluationError, match="no points"):
        map_accuracy(np.zeros((0, 3)), OURS, SEQUENCE.truth, world)


def test_the_truth_does_not_depend_on_the_order_of_its_images(world):
    """The cloud is reduced in batches; each voxel has points at the same places."""
    other = true_cloud(list(SEQUENCE.depths())[::-1], SEQUENCE.camera, SEQUENCE.truth)
    assert KDTree(other).query(world)[0].max() < VOXEL and len(other) == len(world)
    assert np.allclose(inverse(inverse(OURS[1][3])), OURS[1][3])
