"""Cameras and rectification against exact projections."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from vggt_ros.geometry.calibration_change import difference
from vggt_ros.geometry.camera import Camera, CameraError, Rectifier, reduced_size, resize_intrinsics

K = np.array([[458.654, 0, 367.215], [0, 457.296, 248.375], [0, 0, 1]])
MODELS = {
    "barrel": ("plumb_bob", (-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05)),
    "five": ("plumb_bob", (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "rational": ("rational_polynomial", (0.5, -0.2, 0.001, 0.0005, 0.05, 0.8, -0.1, 0.02)),
    "fisheye": ("equidistant", (-0.013, 0.02, -0.012, 0.0025)),
}


def info(**changes):
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    values = {"width": 752, "height": 480, "distortion_model": "plumb_bob", "d": [], "k": K.ravel(), "r": np.eye(3),
              "p": np.zeros(12), "binning_x": 0, "binning_y": 0, "roi": roi}
    return SimpleNamespace(**{**values, **changes})


def project(camera, points):
    """Return the pixels of points in front of the camera, computed from the definitions of the distortion models."""
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    d = camera.distortion
    if camera.model == "equidistant":
        radius = np.hypot(x, y)
        angle = np.arctan(radius)
        distorted_angle = angle * (1 + d[0] * angle**2 + d[1] * angle**4 + d[2] * angle**6 + d[3] * angle**8)
        x, y = x * distorted_angle / radius, y * distorted_angle / radius
    elif d:
        k1, k2, p1, p2, k3, k4, k5, k6 = (*d, *(0.0,) * 8)[:8]
        r2 = x * x + y * y
        radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        x, y = (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y)
    k = camera.intrinsics
    return np.stack([k[0, 0] * x + k[0, 2], k[1, 1] * y + k[1, 2]], 1)


def blob(width, height, center, sigma=4.0):
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    gray = 255 * np.exp(-((columns - center[0]) ** 2 + (rows - center[1]) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(gray).astype(np.uint8)[..., None], 3, axis=2)


def centroid(image):
    gray = image[..., 0].astype(np.float64)
    columns, rows = np.meshgrid(np.arange(gray.shape[1]), np.arange(gray.shape[0]))
    return np.array([(gray * columns).sum(), (gray * rows).sum()]) / gray.sum()


@pytest.mark.parametrize("size", [(752, 480), (376, 240), (518, 336), (400, 300), (940, 600)])
@pytest.mark.parametrize("name", [*MODELS, "pinhole"])
def test_a_point_projects_to_the_pixel_that_the_rectified_intrinsics_give(name, size):
    model, distortion = MODELS.get(name, ("plumb_bob", ()))
    camera = Camera(752, 480, K, distortion, model)
    rectifier = Rectifier(camera, size)
    assert rectifier.size == size
    for target in ((0.5, 0.5), (0.25, 0.3), (0.8, 0.7)):
        pixel = np.array([target[0] * size[0], target[1] * size[1], 1.0])
        ray = np.linalg.solve(rectifier.intrinsics, pixel)[None]
        image = rectifier(blob(752, 480, project(camera, ray)[0]))
        assert image.shape == (size[1], size[0], 3)
        np.testing.assert_allclose(centroid(image), pixel[:2], atol=0.3)


@pytest.mark.parametrize("size", [(1504, 960), (376, 240), (470, 300), (188, 120), (100, 64)])
@pytest.mark.parametrize("name", ["barrel", "pinhole"])
def test_an_image_that_comes_in_gray_or_reduced_is_rectified_as_in_color_and_in_full(name, size):
    model, distortion = MODELS.get(name, ("plumb_bob", ()))
    rectifier = Rectifier(Camera(752, 480, K, distortion, model), size)
    assert rectifier.reduction == {1504: 1, 376: 2, 470: 1, 188: 4, 100: 4}[size[0]]
    assert rectifier.is_reducing == (size[0] < 752)
    noise = np.random.default_rng(0).integers(0, 255, (8, 12), np.uint8)
    gray = cv2.resize(noise, (752, 480), interpolation=cv2.INTER_CUBIC)
    color = rectifier(np.repeat(gray[..., None], 3, axis=2))
    assert np.array_equal(rectifier(gray), color[..., 0])
    n = rectifier.reduction
    small = np.rint(gray.reshape(480 // n, n, 752 // n, n).mean((1, 3))).astype(np.uint8)
    assert np.abs(rectifier(small).astype(int) - color[..., 0]).mean() < 0.5


@pytest.mark.parametrize("name", MODELS)
def test_no_pixel_is_empty_and_the_aspect_ratio_stays(name):
    model, distortion = MODELS[name]
    rectifier = Rectifier(Camera(752, 480, K, distortion, model), (518, 336))
    assert rectifier(np.full((480, 752, 3), 255, np.uint8)).min() == 255
    ratio = rectifier.intrinsics[0, 0] / rectifier.intrinsics[1, 1]
    np.testing.assert_allclose(ratio, K[0, 0] / K[1, 1], rtol=0.003)


def test_a_rectified_image_is_not_undistorted_again():
    camera = Camera(752, 480, K, *reversed(MODELS["barrel"]))
    image = np.random.default_rng(0).integers(0, 255, (480, 752, 3), np.uint8)
    assert np.array_equal(Rectifier(camera, (752, 480), rectified=True)(image), image)
    assert not np.array_equal(Rectifier(camera, (752, 480))(image), image)


def test_a_rectified_image_has_the_pinhole_matrix_of_p():
    projection = np.zeros((3, 4))
    projection[:, :3] = np.diag([400.0, 401.0, 1.0])
    projection[:2, 2] = 370, 240
    message = info(d=MODELS["barrel"][1], p=projection.ravel())
    camera = Camera.from_info(message, rectified=True)
    assert camera.distortion == () and np.array_equal(camera.intrinsics, projection[:, :3])
    assert np.array_equal(Camera.from_info(message).intrinsics, K)


def test_halving_an_image_moves_its_principal_point_by_pixel_centers():
    """Downsampling by averaging 2x2 pixels puts the center of a blob at (c - 0.5) / 2."""
    camera = Camera(64, 48, np.array([[50.0, 0, 31.0], [0, 50.0, 20.0], [0, 0, 1]]))
    rectifier = Rectifier(camera, (32, 24))
    np.testing.assert_allclose(centroid(rectifier(blob(64, 48, (31, 20)))), (15.25, 9.75), atol=0.02)
    np.testing.assert_allclose(rectifier.intrinsics[:2, 2], (15.25, 9.75))


def test_binning_and_region_of_interest():
    """The image shows a binned region of the sensor: a ray projects to the same place on the sensor as before."""
    roi = SimpleNamespace(x_offset=100, y_offset=40, width=400, height=300, do_rectify=False)
    camera = Camera.from_info(info(roi=roi, binning_x=2, binning_y=4))
    assert (camera.width, camera.height) == (200, 75)
    ray = np.array([0.1, -0.05, 1.0])
    full = K @ ray
    sensor_of_binned = [(value + 0.5) * factor - 0.5 + offset for value, factor, offset
                        in zip((camera.intrinsics @ ray)[:2], (2, 4), (100, 40), strict=True)]
    np.testing.assert_allclose(sensor_of_binned, full[:2])


def test_camera_info_without_calibration_gives_no_camera():
    assert Camera.from_info(info(k=np.zeros(9))) is None


@pytest.mark.parametrize(("changes", "message"), [
    ({"k": np.where(np.arange(9) == 0, np.nan, K.ravel())}, "NaN"),
    ({"d": [0.1, np.nan, 0, 0]}, "NaN"),
    ({"k": np.where(np.arange(9) == 0, -1, K.ravel())}, "not positive"),
    ({"distortion_model": "kaleidoscope", "d": [0.1, 0, 0, 0]}, "kaleidoscope"),
    ({"d": [0.1, 0.2]}, "2 coefficients"),
])
def test_an_unusable_calibration_is_rejected_with_a_message(changes, message):
    with pytest.raises(CameraError, match=message):
        Camera.from_info(info(**changes))


def test_an_image_of_another_size_is_rejected_with_a_message():
    with pytest.raises(CameraError, match=r"320x240.*752x480"):
        Rectifier(Camera(752, 480, K), (376, 240))(np.zeros((240, 320, 3), np.uint8))


@pytest.mark.parametrize("size", [(640, 480), (480, 640)])
def test_the_assumed_camera_has_the_requested_field_of_view_along_its_longer_side(size):
    camera, longer = Camera.assumed(*size, 90.0), int(np.argmax(size))
    ends = [np.linalg.solve(camera.intrinsics, np.append(np.full(2, x), 1.0))[longer] for x in (-0.5, 639.5)]
    np.testing.assert_allclose(ends, (-1, 1))
    assert not camera.calibrated


def test_resized_intrinsics_agree_with_opencv():
    """cv2.resize moves a blob exactly as `resize_intrinsics` moves the principal point."""
    image = blob(120, 90, (50.3, 40.7))
    moved = resize_intrinsics(np.array([[1.0, 0, 50.3], [0, 1, 40.7], [0, 0, 1]]), 1.5, 0.5)
    resized = cv2.resize(image, (180, 45), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(centroid(resized), moved[:2, 2], atol=0.05)


@pytest.mark.parametrize(("size", "reduced"), [
    ((640, 480), (200, 150)), ((480, 640), (200, 267)), ((1920, 1080), (200, 112)), ((1226, 370), (273, 82)),
    ((4000, 500), (424, 53)), ((160, 120), (160, 120))])
def test_reduced_images_have_the_width_or_as_many_pixels_as_16_9(size: tuple[int, int],
                                                                 reduced: tuple[int, int]) -> None:
    assert reduced_size(*size, 200) == reduced
    assert reduced_size(*size, 10_000) == size


@pytest.mark.parametrize(("changes", "words"), [
    ({"width": 376}, "376x480 pixels instead of 752x480"), ({"model": "equidistant"}, "from the model plumb_bob to"),
    ({"distortion": (0.1, 0.0, 0.0, 0.0)}, "in the distortion"),
    ({"intrinsics": K + [[9, 0, 0], [0, 9, 30], [0, 0, 0]]}, "cy from 248.38 to 278.38 px")])
def test_what_changed_in_a_calibration_is_named(changes, words):
    """Known fault: a new distortion was announced as fx from 458.7 to 458.7 px."""
    assert words in difference(Camera(752, 480, K), replace(Camera(752, 480, K), **changes))
