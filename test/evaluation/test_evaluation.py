from __future__ import annotations

import cv2
import numpy as np
import pytest
from data_folder import recorded

from vggt_ros.cli.evaluate import main
from vggt_ros.evaluation.errors import EvaluationError, accuracy, associate, coverage, depth_accuracy
from vggt_ros.geometry.camera import Camera, rectify_depth
from vggt_ros.geometry.poses import Sim3, so3_exp
from vggt_ros.storage.files import FileError, format_stamp, write_trajectory
from vggt_ros.synthetic import laps, pinhole, room

STAMPS = 1_700_000_000_000_000_000 + np.arange(200) * 10**8
TRUTH = laps(200)


def test_a_similarity_of_the_truth_has_no_error():
    world_map = Sim3(0.37, so3_exp(np.array([0.3, -1.0, 2.0])), np.array([3.0, 2.0, 1.0]))
    ours = np.array([world_map.apply_pose(matrix) for matrix in TRUTH[::3]])
    figures = accuracy(STAMPS[::3], ours, STAMPS, TRUTH)
    assert figures.ate_rmse < 1e-6 and figures.rpe_rotation < 1e-4 and figures.poses == 67
    assert figures.scale == pytest.approx(1 / 0.37)
    assert accuracy(STAMPS[::3], ours, STAMPS, TRUTH, with_scale=False).ate_rmse > 0.3


def test_ate_is_the_rmse_of_the_positions():
    """Noise that no similarity removes, against the formula."""
    ours = TRUTH.copy()
    ours[:, 2, 3] += 0.05 * (-1.0) ** np.arange(200)
    assert accuracy(STAMPS, ours, STAMPS, TRUTH).ate_rmse == pytest.approx(0.05, rel=0.02)
    assert accuracy(STAMPS, ours, STAMPS, TRUTH).rpe_translation == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("with_scale", [True, False])
def test_errors_are_those_of_evo(with_scale):
    metrics, trajectory = pytest.importorskip("evo.core.metrics"), pytest.importorskip("evo.core.trajectory")
    random = np.random.default_rng(0)
    truth, stamps = laps(60), np.arange(60, dtype=np.int64) * 10**8
    poses = truth.copy()
    for pose in poses:
        pose[:3, :3] = pose[:3, :3] @ so3_exp(random.normal(0, 0.02, 3))
    poses[:, :3, 3] = 0.7 * poses[:, :3, 3] + random.normal(0, 0.02, (60, 3)) + 1.0
    found = accuracy(stamps, poses, stamps, truth, with_scale)

    reference, ours = (trajectory.PoseTrajectory3D(poses_se3=list(one), timestamps=stamps / 1e9)
                       for one in (truth, poses))
    _, _, scale = ours.align(reference, correct_scale=with_scale)
    ate = metrics.APE(metrics.PoseRelation.translation_part)
    ate.process_data((reference, ours))
    expected = [ate.get_statistic(metrics.StatisticsType[name]) for name in ("rmse", "median", "max")]
    for relation in (metrics.PoseRelation.translation_part, metrics.PoseRelation.rotation_angle_deg):
        rpe = metrics.RPE(relation, delta=1, delta_unit=metrics.Unit.frames)
        rpe.process_data((reference, ours))
        expected.append(rpe.get_statistic(metrics.StatisticsType.rmse))
    np.testing.assert_allclose([found.ate_rmse, found.ate_median, found.ate_max, found.rpe_translation,
                                found.rpe_rotation], expected, rtol=1e-6)
    assert found.scale == pytest.approx(scale if with_scale else 1.0)


def test_the_motion_over_a_second_is_compared_with_the_true_one():
    """Where no pose is exactly a second later the nearest one is used; a drifting heading and a jump are measured."""
    turning = TRUTH.copy()
    for index, matrix in enumerate(turning):
        matrix[:3, :3] = so3_exp(np.array([0.0, 0.0, np.radians(0.05 * index)])) @ matrix[:3, :3]
    figures = accuracy(STAMPS, turning, STAMPS, TRUTH)
    assert figures.rpe_second_rotation == pytest.approx(0.5, rel=0.01)
    moved = TRUTH.copy()
    moved[100:, 2, 3] += 0.05  # ten of the 190 motions over a second contain the jump
    rows = np.arange(200) % 7 < 6
    for chosen in (np.ones(200, bool), rows):
        found = accuracy(STAMPS[chosen], moved[chosen], STAMPS, TRUTH, with_scale=False)
        assert found.rpe_second_translation == pytest.approx(0.05 * np.sqrt(10 / 190), rel=0.1)
    apart = accuracy(STAMPS[::12], TRUTH[::12], STAMPS, TRUTH)
    assert apart.rpe_second_translation is None and apart.rpe_second_rotation is None


def test_only_near_stamps_are_associated():
    rows, true_rows = associate(STAMPS[:4] + np.array([0, 19_000_000, -19_000_000, 21_000_000]), STAMPS)
    assert rows.tolist() == [0, 1, 2] and true_rows.tolist() == [0, 1, 2]
    with pytest.raises(EvaluationError, match="only 0 of 200"):
        accuracy(STAMPS + 10**12, TRUTH, STAMPS, TRUTH)


def test_coverage_counts_what_is_missing():
    centers = np.column_stack([np.linspace(0, 20, 200), np.zeros(200), np.zeros(200)])
    everything = coverage(STAMPS[::4], STAMPS, centers)
    assert everything == pytest.approx(196 / 199, abs=0.01)
    assert coverage(STAMPS[100::4], STAMPS, centers) == pytest.approx(0.5, abs=0.02)
    with_hole = np.delete(STAMPS, slice(80, 120))
    assert coverage(with_hole, STAMPS, centers) == pytest.approx(0.8, abs=0.01)
    still = np.concatenate([centers, np.repeat(centers[-1:], 50, 0)])
    stamps = STAMPS[0] + np.arange(250) * 10**8
    assert coverage(stamps[:200], stamps, still) == pytest.approx(1)  # standing still adds no path


CAMERA = Camera(320, 240, pinhole(320, 240, 80), (-0.28, 0.07, 0.001, 0.0002))


def distorted_depth(matrix):
    """What a sensor registered to the distorted image measures: each pixel's own ray into a fine pinhole rendering."""
    fine = pinhole(1600, 1200, 100)
    depth = room(texel=0.02).depth(matrix, fine, (1600, 1200))
    pixels = np.stack(np.meshgrid(np.arange(320.0), np.arange(240.0)), 2).reshape(-1, 1, 2)
    rays = cv2.undistortPoints(pixels, CAMERA.intrinsics, np.array(CAMERA.distortion)).reshape(-1, 2)
    columns, rows = np.rint(rays @ fine[:2, :2].T + fine[:2, 2]).astype(int).T
    return depth[rows.clip(0, 1199), columns.clip(0, 1599)].reshape(240, 320)


def test_sensor_depth_is_sampled_through_the_distortion():
    matrix, view = TRUTH[40], pinhole(160, 120, 70)
    exact, sensor = room(texel=0.02).depth(matrix, view, (160, 120)), distorted_depth(matrix)
    error = np.abs(rectify_depth(sensor, CAMERA, view, (120, 160)) / exact - 1)
    ignoring = np.abs(rectify_depth(sensor, Camera(320, 240, CAMERA.intrinsics), view, (120, 160)) / exact - 1)
    assert np.nanquantile(error, 0.9) < 0.02
    assert np.nanquantile(ignoring, 0.9) > 2 * np.nanquantile(error, 0.9)


def test_depth_is_compared_after_one_scale_for_all(tmp_path):
    view, scene = pinhole(160, 120, 70), room(texel=0.02)
    matrices = dict(zip(STAMPS[:3].tolist(), TRUTH[[0, 60, 120]]))
    confidence = np.tile(np.linspace(0, 1, 160, dtype=np.float32), (120, 1))
    for index, (stamp, matrix) in enumerate(matrices.items()):
        depth = scene.depth(matrix, view, (160, 120)) / np.float32(2.5)
        depth[:, :80] *= np.float32(1.2)  # wrong where it is not confident
        depth[:30] = np.nan
        depth *= np.float32([1, 1, 1.1][index])  # a scale of its own is an error
        np.savez(tmp_path / f"{format_stamp(stamp)}.npz", depth=depth, confidence=confidence, K=view)
    figures = depth_accuracy(tmp_path, ((s, distorted_depth(m)) for s, m in matrices.items()), CAMERA)
    assert figures.keyframes == 3 and figures.known == pytest.approx(0.75, abs=0.01)
    assert figures.all > 0.05
    confident = depth_accuracy(tmp_path, ((s, distorted_depth(m)) for s, m in list(matrices.items())[:2]), CAMERA)
    assert confident.scale == pytest.approx(2.5, rel=0.25)
    assert confident.confident < 0.25
    with pytest.raises(EvaluationError, match="same stamp"):
        depth_accuracy(tmp_path, [(5, distorted_depth(TRUTH[0]))], CAMERA)
    with pytest.raises(FileError, match="no depth maps"):
        depth_accuracy(tmp_path / "none", [], CAMERA)


def test_command_line(tmp_path, capsys):
    write_trajectory(tmp_path / "ours.txt", STAMPS[::2], TRUTH[::2])
    write_trajectory(tmp_path / "true.txt", STAMPS, TRUTH)
    assert main([str(tmp_path / "ours.txt"), str(tmp_path / "true.txt"), "--plot", str(tmp_path / "plot.png"),
                 "--align", "se3"]) == 0
    out = capsys.readouterr().out
    assert "ATE  RMSE 0.0000 m" in out and "100 poses aligned by SE(3)" in out
    assert cv2.imread(str(tmp_path / "plot.png")).shape[0] > 500
    (tmp_path / "ours.txt").rename(tmp_path / "trajectory.txt")
    assert main([str(tmp_path), str(tmp_path / "true.txt")]) == 0
    assert "100 poses" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere.txt"), str(tmp_path / "true.txt")]) == 1
    assert "nowhere.txt" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path / "trajectory.txt")])


def test_recorded_truth_against_itself():
    folder = recorded("euroc_mh01_start")
    from vggt_ros.storage.files import read_trajectory
    stamps, poses = read_trajectory(folder / "groundtruth.txt")
    figures = accuracy(stamps, poses, stamps, poses)
    assert figures.ate_rmse < 1e-9 and figures.path == pytest.approx(5.40, abs=0.01) and figures.coverage > 0.999
