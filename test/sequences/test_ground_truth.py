"""Ground truth as EuRoC and KITTI keep it, in small exact files."""

import re

import cv2
import numpy as np
import pytest

from vggt_ros.cli.evaluate import main
from vggt_ros.geometry.poses import pose, quaternion_from_matrix, so3_exp
from vggt_ros.sequences.ground_truth import find_truth, read_truth
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.storage.files import FileError, write_trajectory

BODY_CAMERA = pose(so3_exp(np.array([0.1, -1.2, 0.7])), np.array([0.1, -0.2, 0.3]))
BEGIN = 1403636580838555648
WORLD_CAMERA = np.array([pose(so3_exp(np.array([0.2, 0.5, -0.3]) * k), np.array([k, 0.5 * k**2, -0.3 * k]))
                         for k in range(5)])
STAMPS = BEGIN + 50_000_000 * np.arange(5)


@pytest.fixture(name="euroc")
def _euroc(tmp_path):
    folder = tmp_path / "MH_01" / "mav0"
    for part in ("cam0/data", "cam1", "state_groundtruth_estimate0"):
        (folder / part).mkdir(parents=True)
    lines = ["#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], q_RS_y [], q_RS_z [], v"]
    for stamp, matrix in zip(STAMPS, WORLD_CAMERA @ np.linalg.inv(BODY_CAMERA), strict=True):
        x, y, z, w = quaternion_from_matrix(matrix[:3, :3])
        lines.append(",".join(map(str, (stamp, *matrix[:3, 3], w, x, y, z, *np.zeros(9)))))
    (folder / "state_groundtruth_estimate0/data.csv").write_text("\r\n".join(lines) + "\r\n")
    (folder / "cam0/data.csv").write_text("#timestamp [ns],filename\n" + "".join(f"{s},{s}.png\n" for s in STAMPS))
    for stamp in STAMPS:
        cv2.imwrite(str(folder / f"cam0/data/{stamp}.png"), np.full((48, 64), 90, np.uint8))
    for name in ("cam0", "cam1"):
        matrix = BODY_CAMERA if name == "cam0" else np.eye(4)
        (folder / name / "sensor.yaml").write_text(
            f"%YAML:1.0\nT_BS:\n  cols: 4\n  rows: 4\n  data: {matrix.ravel().tolist()}\nresolution: [64, 48]\n"
            "camera_model: pinhole\nintrinsics: [50, 50, 32, 24]\ndistortion_model: none\n")
    return folder


def test_the_body_of_euroc_is_not_its_camera(euroc):
    for folder in (euroc.parent, euroc, euroc / "cam0", euroc / "cam0/data", euroc / "state_groundtruth_estimate0"):
        stamps, poses = find_truth(folder)
        assert stamps.tolist() == STAMPS.tolist()
        np.testing.assert_allclose(poses, WORLD_CAMERA, atol=1e-9)
    np.testing.assert_allclose(read_truth(euroc / "state_groundtruth_estimate0/data.csv")[1], WORLD_CAMERA, atol=1e-9)
    np.testing.assert_allclose(open_sequence(euroc.parent).truth[1], WORLD_CAMERA, atol=1e-9)
    np.testing.assert_allclose(find_truth(euroc / "cam1")[1], WORLD_CAMERA @ np.linalg.inv(BODY_CAMERA), atol=1e-9)


def test_a_trajectory_is_evaluated_against_eurocs_folder(euroc, tmp_path, capsys):
    write_trajectory(tmp_path / "trajectory.txt", STAMPS, WORLD_CAMERA)
    assert main([str(tmp_path / "trajectory.txt"), str(euroc.parent), "--align", "se3"]) == 0
    assert re.search("5 poses .*ATE  RMSE 0.0000 m", capsys.readouterr().out, re.DOTALL)


def test_without_the_pose_of_the_camera_in_the_body_there_is_no_truth(euroc):
    (euroc / "cam0/sensor.yaml").write_text("T_BS: 1\n")
    with pytest.raises(FileError, match=r"cam0/sensor\.yaml: no T_BS"):
        find_truth(euroc)


@pytest.fixture(name="kitti")
def _kitti(tmp_path):
    sequence = tmp_path / "dataset/sequences/07"
    (tmp_path / "dataset/poses").mkdir(parents=True)
    (tmp_path / "dataset/poses/07.txt").write_text("".join(
        " ".join(f"{value:.9e}" for value in matrix[:3].ravel()) + "\n" for matrix in WORLD_CAMERA))
    for camera in ("image_0", "image_1"):
        (sequence / camera).mkdir(parents=True)
        for number in range(1, 5):  # the first image was left out
            cv2.imwrite(str(sequence / camera / f"{number:06d}.png"), np.full((48, 64), 90, np.uint8))
    (sequence / "times.txt").write_text("".join(f"{0.1039 * k:e}\n" for k in range(5)))
    (sequence / "calib.txt").write_text("P0: 50 0 32 0 0 51 24 0 0 0 1 0\nP1: 50 0 32 -25 0 51 24 0 0 0 1 0\n")
    return sequence


def test_kitti_has_its_times_its_calibration_and_the_poses_of_its_first_camera(kitti):
    sequence = open_sequence(kitti)
    stamps = [103_900_000 * k for k in range(5)]
    assert [stamp for stamp, _ in sequence] == stamps[1:]
    assert "the times in times.txt" in sequence.assumptions
    np.testing.assert_allclose(sequence.camera.intrinsics, [[50, 0, 32], [0, 51, 24], [0, 0, 1]])
    for found in (sequence.truth, find_truth(kitti), read_truth(kitti.parents[1] / "poses/07.txt")):
        assert found[0].tolist() == stamps
        np.testing.assert_allclose(found[1], WORLD_CAMERA, atol=1e-8)
    right = WORLD_CAMERA @ pose(np.eye(3), np.array([0.5, 0, 0]))
    np.testing.assert_allclose(open_sequence(kitti / "image_1").truth[1], right, atol=1e-8)


def test_poses_of_kitti_without_their_times_and_folders_without_truth_are_named(kitti, tmp_path, capsys):
    (kitti / "times.txt").write_text("0\n")
    with pytest.raises(FileError, match=r"07\.txt has 5 poses, .*times\.txt has 1 times"):
        find_truth(kitti)
    (kitti / "times.txt").unlink()
    with pytest.raises(FileError, match=r"07\.txt: poses of KITTI, whose times are missing"):
        read_truth(kitti.parents[1] / "poses/07.txt")
    write_trajectory(tmp_path / "trajectory.txt", STAMPS, WORLD_CAMERA)
    assert main([str(tmp_path / "trajectory.txt"), str(kitti)]) == 1
    assert re.search("07: there is no ground truth in it; .*TUM.*EuRoC.*KITTI.*bag", capsys.readouterr().err)
