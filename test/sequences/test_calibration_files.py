"""Calibrations in the files of other tools: one camera in each format gives the same pixels."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from vggt_ros.cli.replay import main as replay
from vggt_ros.geometry.camera import Camera
from vggt_ros.sequences.calibration_file import read_calibration
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import SequenceError

SIZE = (640, 480)
MATRIX = np.array([[500.0, 0, 310.5], [0, 505.0, 245.5], [0, 0, 1]])
PLUMB, FISH = (0.1, -0.05, 0.001, -0.002), (0.02, -0.01, 0.003, -0.001)
ROWS = "[500.0, 0.0, 310.5, 0.0, 505.0, 245.5, 0.0, 0.0, 1.0]"
PINHOLE = {
    "own": "# fx fy cx cy\n500 505 310.5 245.5 0.1 -0.05 0.001 -0.002\n",
    "with commas": "500, 505, 310.5, 245.5, 0.1, -0.05, 0.001, -0.002",
    "ros": f"""image_width: 640
image_height: 480
camera_name: narrow_stereo
camera_matrix: {{rows: 3, cols: 3, data: {ROWS}}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [0.1, -0.05, 0.001, -0.002, 0.0]}}
""",
    "camera_info topic": f"""header: {{frame_id: cam}}
width: 640
height: 480
distortion_model: plumb_bob
d: [0.1, -0.05, 0.001, -0.002, 0.0]
k: {ROWS}
---
""",
    "kalibr": """cam0:
  cam_overlaps: []
  camera_model: pinhole
  distortion_coeffs: [0.1, -0.05, 0.001, -0.002]
  distortion_model: radtan
  intrinsics: [500.0, 505.0, 310.5, 245.5]
  resolution: [640, 480]
  rostopic: /cam0/image_raw
""",
    "euroc": """%YAML:1.0
# General sensor definitions.
sensor_type: camera
T_BS:
  cols: 4
  rows: 4
  data: [1, 0, 0, 0]
resolution: [640, 480]
camera_model: pinhole
intrinsics: [500.0, 505.0, 310.5, 245.5] #fu, fv, cu, cv
distortion_model: radial-tangential
distortion_coefficients: [0.1, -0.05, 0.001, -0.002]
""",
    "orb-slam": """%YAML:1.0
---
Camera.type: "PinHole"
Camera.fx: 500.0
Camera.fy: 505.0
Camera.cx: 310.5
Camera.cy: 245.5
Camera.k1: 0.1
Camera.k2: -0.05
Camera.p1: 1e-3
Camera.p2: -2e-3
Camera.bFishEye: 0
""",
    "colmap": "# Camera list\n1 OPENCV 640 480 500 505 311 246 0.1 -0.05 0.001 -0.002\n"}
FISHEYE = {
    "kalibr": """cam0:
  camera_model: pinhole
  distortion_coeffs: [0.02, -0.01, 0.003, -0.001]
  distortion_model: equidistant
  intrinsics: [500.0, 505.0, 310.5, 245.5]
  resolution: [640, 480]
""",
    "orb-slam": """%YAML:1.0
File.version: "1.0"
Camera.type: "KannalaBrandt8"
Camera1.fx: 500.0
Camera1.fy: 505.0
Camera1.cx: 310.5
Camera1.cy: 245.5
Camera1.k1: 0.02
Camera1.k2: -0.01
Camera1.k3: 0.003
Camera1.k4: -0.001
Camera.width: 640
Camera.height: 480
""",
    "colmap": "1 OPENCV_FISHEYE 640 480 500 505 311 246 0.02 -0.01 0.003 -0.001\n"}


def same(camera, distortion, model):
    expected = Camera(*SIZE, MATRIX, distortion, model)
    assert (camera.width, camera.height, camera.model) == (*SIZE, model)
    np.testing.assert_allclose(camera.intrinsics, expected.intrinsics)
    np.testing.assert_allclose(camera.distortion[:4], distortion)
    assert not any(camera.distortion[4:]) and camera.calibrated


@pytest.mark.parametrize("form", PINHOLE)
def test_a_pinhole_camera_is_the_same_in_every_format(form, tmp_path):
    path = tmp_path / "file"
    path.write_text(PINHOLE[form])
    same(read_calibration(path).camera(SIZE), PLUMB, "plumb_bob")


@pytest.mark.parametrize("form", FISHEYE)
def test_a_fisheye_is_the_same_in_every_format(form, tmp_path):
    path = tmp_path / "file"
    path.write_text(FISHEYE[form])
    same(read_calibration(path).camera(SIZE), FISH, "equidistant")


@pytest.mark.parametrize("suffix", ["yml", "yaml"])
def test_opencv_reads_back_what_it_wrote(suffix, tmp_path):
    path = tmp_path / f"calibration.{suffix}"
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for name, value in (("image_width", 640), ("image_height", 480), ("camera_matrix", MATRIX),
                        ("distortion_coefficients", np.array(PLUMB)[:, None])):
        storage.write(name, value)
    storage.release()
    same(read_calibration(path).camera(SIZE), PLUMB, "plumb_bob")


def test_colmaps_other_models_project_as_they_are_defined(tmp_path):
    """By COLMAP's definition of SIMPLE_RADIAL and FULL_OPENCV, written down here a second time."""
    path = tmp_path / "cameras.txt"
    for model, words in (("SIMPLE_RADIAL", "500 320 240 0.1"),
                         ("FULL_OPENCV", "500 500 320 240 0.1 0 0 0 0 0.02 0 0")):
        path.write_text(f"1 {model} 640 480 {words}\n")
        camera = read_calibration(path).camera(SIZE)
        x, y = 0.3, -0.2
        r = x * x + y * y
        factor = 1 + 0.1 * r if model == "SIMPLE_RADIAL" else (1 + 0.1 * r) / (1 + 0.02 * r)
        pixel, _ = cv2.projectPoints(np.array([[[x, y, 1.0]]]), np.zeros(3), np.zeros(3), camera.intrinsics,
                                     np.array(camera.distortion))
        np.testing.assert_allclose(pixel.ravel() + 0.5, (500 * factor * x + 320, 500 * factor * y + 240))


@pytest.mark.parametrize(("text", "words"), [
    ("", "expected `fx fy cx cy"), ("500 505 310", "it has 3 numbers"), ("a: [1", "not YAML"), ("hello", "no keys"),
    ("stereo: {fx: 1}", "no camera_matrix; it has stereo"),
    ("camera_matrix: {data: [1, 2, 3]}", "3 numbers in the camera matrix, not 9"),
    ("cam0: {camera_model: omni, intrinsics: [1, 2, 3, 4, 5]}", "camera_model omni; known is pinhole"),
    ("cam0: {intrinsics: [5, 5, 3]}", "expected `fx"),
    ("cam0: {intrinsics: [500, 500, 320, 240], distortion_model: fov, distortion_coeffs: [0.9]}",
     "distortion model 'fov' with 1 coefficients; known are plumb_bob"),
    ("Camera.type: Rectified\nCamera.fx: 500", r"no 'Camera.fy'"),
    ("1 OPENCV 640 480 1 2", "expected `fx"), ("1 FOV 640 480 500 500 320 240 1", "expected `fx"),
    ("1 PINHOLE 640 480 500 500 320 240\n2 PINHOLE 640 480 500 500 320 240", "2 cameras; leave the line of one"),
    ("nan nan nan nan", "expected `fx"), ("camera_matrix: x", "expected `fx"), ("[[1, 2], [3]]", "no keys")])
def test_what_cannot_be_read_is_named(text, words, tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(SequenceError, match=words) as error:
        read_calibration(path).camera(SIZE)
    assert str(path) in str(error.value)


def images(folder, count=2, size=SIZE):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((size[1], size[0], 3), 40 * i, np.uint8))
    return folder


@pytest.mark.parametrize("name", ["calibration.yaml", "ost.yaml", "camera_info.yaml"])
def test_a_calibration_beside_the_images_is_taken_and_said(name, tmp_path):
    (images(tmp_path) / name).write_text(PINHOLE["ros"])
    sequence = open_sequence(tmp_path)
    same(sequence.camera, PLUMB, "plumb_bob")
    assert f"the calibration of {tmp_path / name}" in sequence.assumptions


def test_images_of_eurocs_data_have_its_calibration(tmp_path):
    images(tmp_path / "cam0" / "data")
    (tmp_path / "cam0" / "sensor.yaml").write_text(PINHOLE["euroc"])
    same(open_sequence(tmp_path / "cam0" / "data").camera, PLUMB, "plumb_bob")


def test_a_calibration_is_scaled_to_images_that_were_resized_but_not_to_others(tmp_path):
    calibration = tmp_path / "ost.yaml"
    calibration.write_text(PINHOLE["ros"])
    half = open_sequence(images(tmp_path / "half", size=(320, 240)), calibration=calibration)
    np.testing.assert_allclose(half.camera.intrinsics[:2], [[250, 0, 155], [0, 252.5, 122.5]])
    assert "for 640x480, as if images of 320x240 were resized" in half.assumptions[-1]
    with pytest.raises(SequenceError, match=r"it is for images of 640x480.*for images of 320x180"):
        open_sequence(images(tmp_path / "wide", size=(320, 180)), calibration=calibration)


def test_a_calibration_that_cannot_be_read_can_be_left_out(tmp_path):
    """A camera model that is not known is never taken for a pinhole without being asked for."""
    (images(tmp_path) / "camera.yaml").write_text("cam0: {camera_model: omni, intrinsics: [1, 2, 3, 4, 5]}")
    with pytest.raises(SequenceError, match=r"camera\.yaml: .*or --calibration none"):
        open_sequence(tmp_path)
    assert not open_sequence(tmp_path, calibration=Path("none")).camera.calibrated


def test_a_video_takes_a_calibration_from_the_command_line(tmp_path, capsys):
    path, calibration = tmp_path / "v.avi", tmp_path / "ost.yaml"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE)
    for i in range(3):
        writer.write(np.full((480, 640, 3), 100 + i, np.uint8))
    writer.release()
    assert "--calibration FILE gives one" in open_sequence(path).assumptions[0]
    calibration.write_text(PINHOLE["ros"])
    same(open_sequence(path, calibration=calibration).camera, PLUMB, "plumb_bob")
    assert replay([str(path), "--output", str(tmp_path / "out"), "--calibration", str(tmp_path / "no.yaml")]) == 1
    assert "no.yaml: No such file" in capsys.readouterr().err
