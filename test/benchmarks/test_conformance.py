"""`check --reconstructor`: each usual mistake of a reconstructor is found, and named."""

from dataclasses import replace

import numpy as np
import pytest

from vggt_ros.benchmarks.check import conformance, conformance_geometry
from vggt_ros.benchmarks.check.conformance_geometry import (
    RenderedWindow,
    check_confidence,
    check_depth,
    check_intrinsics,
    check_poses,
    check_uncertainty,
)
from vggt_ros.benchmarks.check.machine import GREEN, RED, YELLOW
from vggt_ros.cli.check import main
from vggt_ros.config import Config
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import inverse
from vggt_ros.reconstruction.base import ReconstructionRefused, ReconstructorUnavailable
from vggt_ros.synthetic import SceneReconstructor, room

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.fixture(name="scene", scope="module")
def _scene():
    return RenderedWindow()


def oracle(scene):
    """Return a reconstructor with exact geometry and free scale."""
    made = SceneReconstructor(room(texel=0.008), [i * 10**8 for i in range(8)], scene.poses)
    made.image_size = lambda camera: (320, 240)
    return made


@pytest.fixture(name="exact", scope="module")
def _exact(scene):
    made = oracle(scene)
    return made.reconstruct(conformance._window(scene, made))


def level(check, geometry, scene):
    (finding,) = check(geometry, scene, Config())
    return finding.level, f"{finding.text}; {finding.cure}"


def test_exact_geometry_is_green(exact, scene):
    for check in (check_poses, check_intrinsics, check_depth, check_uncertainty):
        assert level(check, exact, scene)[0] == GREEN, check


def turned(exact):
    """Return the poses with axes of OpenGL."""
    return np.array([FLIP @ pose @ FLIP for pose in exact.window_camera])


@pytest.mark.parametrize(("poses", "words"), [
    (lambda exact: np.array([inverse(pose) for pose in exact.window_camera]), "camera_window instead of window_camera"),
    (turned, "axes of OpenGL"),
    (lambda exact: np.array([inverse(pose) for pose in turned(exact)]), "both camera_window and axes of OpenGL"),
    (lambda exact: np.tile(np.eye(4), (8, 1, 1)), "are expected here")])
def test_conventions_of_poses(exact, scene, poses, words):
    found, text = level(check_poses, replace(exact, window_camera=poses(exact)), scene)
    assert found == RED and words in text


def test_depth_that_is_a_distance_or_has_another_unit(exact, scene):
    rows, columns = np.indices(exact.depth.shape[1:])
    rays = pixel_rays(exact.intrinsics[0], columns.ravel(), rows.ravel())
    slant = np.linalg.norm(rays, axis=-1).reshape(rows.shape).astype(np.float32)
    for depth, words in ((exact.depth * slant, "distance along the ray"), (2 * exact.depth, "must have one unit"),
                         (np.nan_to_num(exact.depth, nan=0.0) * (rows > 9), "set unknown depth to NaN"),
                         (np.where(rows < 1, exact.depth, np.nan), "return denser depth")):
        found, text = level(check_depth, replace(exact, depth=depth.astype(np.float32)), scene)
        assert found == RED and words in text
    assert "only if the unit is the meter" in level(check_depth, replace(exact, metric=True), scene)[1]


def test_a_metric_window_is_green(exact, scene):
    poses = exact.window_camera.copy()
    unit = np.linalg.norm(poses[7, :3, 3]) / np.linalg.norm(scene.poses[7, :3, 3] - scene.poses[0, :3, 3])
    poses[:, :3, 3] /= unit
    metric = replace(exact, window_camera=poses, depth=exact.depth / np.float32(unit), metric=True)
    assert level(check_depth, metric, scene)[0] == GREEN


def test_intrinsics_of_another_size(exact, scene):
    wrong = exact.intrinsics.copy()
    wrong[:, :2] *= 2
    assert level(check_intrinsics, replace(exact, intrinsics=wrong), scene)[0] == RED
    square = replace(exact, depth=exact.depth[:, :, :100], confidence=exact.confidence[:, :, :100])
    assert "aspect ratio" in level(check_intrinsics, square, scene)[1]


def test_confidence(exact, scene):
    depth = exact.depth.copy()
    depth[:, :5] = np.nan
    ranks = (np.argsort(np.argsort(exact.depth, axis=None)) / exact.depth.size).reshape(depth.shape).astype(np.float32)
    for confidence, expected, words in (
            (10 * ranks, RED, "not all in [0, 1]"), (ranks + 0.001, RED, "not all in [0, 1]"),
            (np.clip(ranks, 0.01, 1), RED, "above 0 where depth is NaN"),
            (np.where(np.isnan(depth), 0, 0.9), YELLOW, "no rank"),
            (np.where(np.isnan(depth), 0, ranks), GREEN, "a rank")):
        geometry = replace(exact, depth=depth, confidence=confidence.astype(np.float32))
        found, text = level(check_confidence, geometry, scene)
        assert found == expected and words in text, text


def test_descriptors_and_covariances(exact, scene):
    good = np.tile(np.eye(6) * 1e-4, (7, 1, 1))
    assert "0.57 deg a step" in level(check_uncertainty, replace(exact, step_covariance=good), scene)[1]
    for wrong in (-good, good[:6], good + np.triu(np.ones((6, 6)), 1)):
        assert level(check_uncertainty, replace(exact, step_covariance=wrong), scene)[0] == RED
    assert level(check_uncertainty, replace(exact, descriptors=np.ones((8, 16), np.float32)), scene)[0] == RED
    assert level(check_uncertainty, replace(exact, descriptors=np.full((8, 16), 0.25, np.float32)), scene)[0] == GREEN


class Careless:
    """Changes what it gets, or what it has returned, or answers what cannot be solved."""

    name = "careless"

    def __init__(self, inner, fault):
        self.inner, self.fault, self.before = inner, fault, None

    def image_size(self, camera):
        return self.inner.image_size(camera)

    def reconstruct(self, window):
        if self.fault == "crash" and window.id >= 10:
            raise ZeroDivisionError("division by zero")
        if self.fault == "mute" and window.id >= 10:
            raise ReconstructionRefused
        if self.fault == "refuse" and window.id >= 10:
            raise ReconstructionRefused("no parallax")
        geometry = self.inner.reconstruct(replace(window, id=0))
        if self.fault == "image":
            window.keyframes[0].image[:] = 0
        if self.fault == "result" and self.before is not None:
            self.before.depth[:] += 1
        if self.fault == "random":
            geometry = replace(geometry, depth=geometry.depth * np.float32(1 + 0.01 * np.random.default_rng().random()))
        self.before = geometry
        return geometry


@pytest.mark.parametrize(("fault", "expected", "words"), [
    ("image", RED, "images of the window were changed"), ("result", RED, "first window was changed by the second"),
    ("random", YELLOW, "gave another result"), ("", GREEN, "the same window gives the same result")])
def test_what_is_changed_is_found(scene, fault, expected, words):
    made = Careless(oracle(scene), fault)
    window = conformance._window(scene, made)
    (found,) = conformance._repetition(made, window, made.reconstruct(window) if fault != "image"
                                       else made.inner.reconstruct(window))
    assert found.level == expected and words in found.text


@pytest.mark.parametrize(("fault", "expected", "words"), [
    ("crash", RED, "ZeroDivisionError"), ("mute", RED, "without a reason"), ("refuse", GREEN, "no parallax"),
    ("accept", YELLOW, "not refused: a camera that stands still")])
def test_refusals(scene, fault, expected, words, monkeypatch):
    made = Careless(oracle(scene), fault)
    window = conformance._window(scene, made)
    monkeypatch.setattr(made.inner, "reconstruct", lambda window: None)
    (found,) = conformance._refusals(made, window)
    assert found.level == expected and words in found.text


def test_the_command_says_what_cannot_be_created(monkeypatch, capsys):
    assert main(["--reconstructor", "nobody"]) == 1
    assert "'nobody' is none of auto, vggt, multiview" in capsys.readouterr().err

    def fails(*_, **options):
        raise ReconstructorUnavailable("torch finds no GPU")

    monkeypatch.setattr(conformance, "create", fails)
    assert main(["--reconstructor", "multiview"]) == 1
    assert "it cannot run on this machine: torch finds no GPU" in capsys.readouterr().out


def test_the_size_of_images_is_checked(scene):
    made = oracle(scene)
    made.image_size = lambda camera: (320.5, 240)
    with pytest.raises(ValueError, match="image_size returned"):
        conformance._window(scene, made)
    assert len(scene.images) == conformance_geometry._COUNT
