"""The demo on a short path through its rendered room."""

import importlib.util
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from paths import ROOT

pytest.importorskip("rclpy", reason="rclpy is not installed")

from vggt_ros.evaluation.errors import accuracy
from vggt_ros.sequences.bag import BagSequence
from vggt_ros.storage.files import read_ply, read_trajectory


@pytest.fixture(scope="module")
def demo():
    """The module dev/demo.py."""
    sys.path.insert(0, str(ROOT / "dev"))
    spec = importlib.util.spec_from_file_location("demo", ROOT / "dev" / "demo.py")
    module = sys.modules["demo"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "dev"))


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    """A fifth of a lap as a rosbag2; rendered by a separate process, because it forks."""
    path = tmp_path_factory.mktemp("demo") / "bag"
    code = "import sys, demo, pathlib; demo.render_room(pathlib.Path(sys.argv[1]), images=45, seed=0, rounds=0.2)"
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=True, timeout=120,
                   env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'dev'}"})
    return path


def test_the_bag_contains_exactly_what_was_rendered(bag):
    """Stamps to the nanosecond, the true poses beside the images, and the renderer's intrinsics."""
    from vggt_ros.synthetic import laps, pinhole

    sequence = BagSequence(bag)
    stamps = [stamp for stamp, _ in sequence]
    assert stamps == [1_700_000_000_000_000_000 + 100_000_000 * index for index in range(45)]
    assert sequence.truth[0].tolist() == stamps
    np.testing.assert_allclose(sequence.truth[1], laps(45, 0.2), atol=1e-12)
    np.testing.assert_array_equal(sequence.camera.intrinsics, pinhole(512, 384, 80.0))


def test_images_show_the_room_from_the_true_poses(bag, demo):
    """JPEG compression changes pixels a little; a wrong pose or color order would change them much more."""
    from vggt_ros.synthetic import laps, pinhole, room

    _, image = list(BagSequence(bag))[20]
    rendered, _ = room(seed=0).render(laps(45, 0.2)[20], pinhole(512, 384, 80.0), (512, 384))
    difference = np.abs(image.astype(int) - rendered.astype(int)).mean()
    wrong = np.abs(image.astype(int) - rendered[..., ::-1].astype(int)).mean()
    assert difference < 5 and wrong > 2 * difference


@pytest.mark.slow
def test_the_demo_writes_its_results(bag, tmp_path):
    """Over DDS with the lifecycle node: result files, a consistent report, and a path within 1 % of ground truth."""
    out = tmp_path / "out"
    run = subprocess.run([sys.executable, "dev/demo.py", str(bag), "--output", str(out), "--rate", "0.3"], cwd=ROOT,
                         capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    assert {file.name for file in out.iterdir()} >= {"trajectory.txt", "groundtruth.txt", "map.ply", "trajectory.png",
                                                    "map.png", "report.json"}
    report = json.loads((out / "report.json").read_text())
    trajectory, truth = read_trajectory(out / "trajectory.txt"), read_trajectory(out / "groundtruth.txt")
    assert set(trajectory[0]) <= set(truth[0]), "stamps of the path are those of images"
    fit = accuracy(*trajectory, *truth)
    assert report["ate_rmse_m"] == pytest.approx(fit.ate_rmse, rel=1e-3)
    assert fit.ate_rmse < 0.01 * fit.path and fit.coverage > 0.9
    # Positions alone would not detect poses of the base frame that were not converted to the camera frame.
    turned = truth[1][np.searchsorted(truth[0], trajectory[0])][:, :3, :3]
    relative = trajectory[1][:, :3, :3].transpose(0, 2, 1) @ trajectory[1][0, :3, :3]
    expected = turned.transpose(0, 2, 1) @ turned[0]
    angle = np.degrees(np.arccos(np.clip((np.einsum("nij,nij->n", relative, expected) - 1) / 2, -1, 1)))
    assert angle.max() < 1.0
    assert len(read_ply(out / "map.ply")) == report["points"] > 10_000
    assert report["keyframes_in_path"] == len(trajectory[0])
    assert report["frames"] + report["lost_on_the_way"] == report["images"] == 45


def test_an_assumed_camera_is_not_written_as_a_calibration(demo, tmp_path, capsys):
    """For a folder without calibration the node must not get the assumed field of view as a calibration."""
    (tmp_path / "shots").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "shots" / f"{index}.png"), np.full((48, 64, 3), 90, np.uint8))
    made = demo.find_bag(tmp_path / "shots", tmp_path / "bag")
    assert len(made) == 3 and not made.camera.calibrated and "K[0] is 0" in made.assumptions[0]
    assert "field of view" in capsys.readouterr().err


@pytest.mark.parametrize(("path", "expected"), [("missing", "no such file or folder"), ("", "no images")])
def test_a_wrong_path_is_reported(path, expected, tmp_path):
    run = subprocess.run([sys.executable, "dev/demo.py", str(tmp_path / path), "--output", str(tmp_path / "out")],
                         cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1 and expected in run.stderr and "Traceback" not in run.stderr
