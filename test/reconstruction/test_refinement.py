"""Bundle adjustment of a network's windows against rendered ground truth, where the errors are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from window_shape import shape_error

torch = pytest.importorskip("torch", reason="torch is not installed")

from vggt_ros.benchmarks.accuracy.network_errors import ErringReconstructor, NetworkErrors
from vggt_ros.geometry.poses import Array, pose, so3_exp, so3_log
from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions, NormalEquations, Scene, adjust
from vggt_ros.reconstruction.adjustment.covariance import uncertainty
from vggt_ros.reconstruction.adjustment.priors import DepthPrior, PosePrior
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.reconstruction.earlier_keyframes import earlier_keyframes
from vggt_ros.reconstruction.refined import RefinedReconstructor
from vggt_ros.reconstruction.refinement import Gray, Refinement, refine_window
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.synthetic import orbit, pinhole, room, turn
from vggt_ros.windows.keyframe import Keyframe, Window

SIZE = (518, 392)
EXACT = NetworkErrors(rotation=(0, 0), center=(0, 0), focal=(0, 0), depth=(0, 0))


class Views:
    """Rendered keyframes with their exact poses and depth."""

    def __init__(self, poses: Array, calibrated: bool) -> None:
        matrix = pinhole(*SIZE)
        views = [room().render(world_camera, matrix, SIZE) for world_camera in poses]
        self.keyframes = tuple(Keyframe(i, 10**8 * (i + 1), image, matrix, calibrated)
                               for i, (image, _) in enumerate(views))
        self.poses = {keyframe.stamp: world for keyframe, world in zip(self.keyframes, poses, strict=True)}
        self.depth = {keyframe.stamp: depth for keyframe, (_, depth) in zip(self.keyframes, views, strict=True)}
        self.matrix = matrix

    def reconstructor(self, errors: NetworkErrors, seed: int = 0) -> ErringReconstructor:
        """Return a reconstructor with errors."""
        return ErringReconstructor(self.poses, self.depth, self.matrix, errors, seed, VggtConfig())

    def errors(self, geometry: WindowGeometry) -> tuple[float, float]:
        """Return the RMSE of the centers over the length of the path, and the mean rotation error, degrees."""
        truth = np.array([self.poses[self.keyframes[k].stamp] for k in geometry.keyframe_ids])
        return shape_error(geometry.window_camera, truth)[:2]


@pytest.fixture(scope="module", name="views")
def _views() -> Views:
    return Views(orbit(60)[::3][:13], calibrated=False)


def test_focal_length_and_rotations_are_corrected(views: Views) -> None:
    """Focal length off by 5 %, each rotation by a degree: in every one of 20 seeds."""
    errors = NetworkErrors(rotation=(0, np.radians(1)), center=(0, 0), focal=(0.05, 0), depth=(0, 0.01))
    window = Window(0, views.keyframes[:8], ())
    results = []
    for seed in range(20):
        inner = views.reconstructor(errors, seed)
        found = RefinedReconstructor(inner).reconstruct(window)
        results.append((*views.errors(found), abs(found.intrinsics[0, 0, 0] / views.matrix[0, 0] - 1)))
    positions, rotations, focals = np.array(results).T
    assert views.errors(inner.reconstruct(window))[1] > 0.5
    assert positions.max() < 0.001  # 0.0004
    assert rotations.max() < 0.03  # 0.023
    assert focals.max() < 0.008  # 0.0055


def test_a_calibrated_camera_keeps_its_intrinsics(views: Views) -> None:
    """The network's focal length is 10 % off: its poses are bent; calibrated ones are adjusted to the true one."""
    keyframes = tuple(replace(keyframe, calibrated=True) for keyframe in views.keyframes[:8])
    window = Window(3, keyframes, ())
    found = RefinedReconstructor(views.reconstructor(NetworkErrors(focal=(0.1, 0.0)))).reconstruct(window)
    np.testing.assert_allclose(found.intrinsics[:, 0, 0], views.matrix[0, 0], rtol=1e-9)
    position, rotation = views.errors(found)
    assert position < 0.001
    assert rotation < 0.03


def test_depth_is_rescaled_to_the_points(views: Views) -> None:
    """Each image's depth is off by a factor of its own, of 3 %: afterwards all agree."""
    window = Window(0, views.keyframes[:8], ())
    found = RefinedReconstructor(views.reconstructor(replace(EXACT, depth=(0.03, 0.0)))).reconstruct(window)
    truth = np.array([views.depth[keyframe.stamp] for keyframe in window.keyframes])
    ratio = np.nanmedian(found.depth / truth, axis=(1, 2))
    assert np.log(ratio).std() < 0.003


def test_windows_are_adjusted_with_keyframes_of_the_one_before(views: Views) -> None:
    """Two windows with three shared keyframes: the second is exact too, has only its own keyframes, and fits."""
    reconstructor = RefinedReconstructor(views.reconstructor(NetworkErrors()))
    first = reconstructor.reconstruct(Window(0, views.keyframes[:8], ()))
    second = reconstructor.reconstruct(Window(1, views.keyframes[5:], (5, 6, 7)))
    assert second.keyframe_ids == tuple(range(5, 13))
    assert len(second.step_covariance) == 7
    assert np.array_equal(second.window_camera[0], np.eye(4))
    assert views.errors(second)[0] < 0.001
    earlier = earlier_keyframes(second, first)
    assert earlier.keyframe_ids == tuple(range(5))
    both = (*second.keyframe_ids, *earlier.keyframe_ids)
    truth = np.array([views.poses[views.keyframes[k].stamp] for k in both])
    assert shape_error(np.concatenate([second.window_camera, earlier.window_camera]), truth)[0] < 0.001
    assert earlier_keyframes(first, second).keyframe_ids == tuple(range(8, 13))
    assert earlier_keyframes(replace(first, keyframe_ids=tuple(range(20, 28))), second) is None, "nothing shared"


def test_the_keyframes_before_are_the_newest(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third window is adjusted with keyframes of the second, not with the first ones again."""
    added = []

    def spy(geometry: WindowGeometry, grays: list[Gray], *args: Any) -> Refinement:
        added.append(args[2].keyframe_ids if len(args) > 2 and args[2] else ())
        return refine_window(geometry, grays, *args)

    monkeypatch.setattr("vggt_ros.reconstruction.refined.refine_window", spy)
    reconstructor = RefinedReconstructor(views.reconstructor(EXACT))
    for number, first in enumerate((0, 3, 6)):
        reconstructor.reconstruct(Window(number, views.keyframes[first:first + 5], ()))
    assert added == [(), (0, 1, 2), (3, 4, 5)]


def test_what_cannot_be_refined_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """A camera that turns on the spot has no parallax, and a wall of one color no corners: the answer is as it was."""
    views = Views(turn(60)[:6], calibrated=True)
    inner = views.reconstructor(EXACT)
    window = Window(0, views.keyframes, ())
    for part, reason in ((window, "different places"),
                         (Window(0, tuple(replace(k, image=np.full_like(k.image, 90)) for k in views.keyframes), ()),
                          "corners")):
        found, plain = RefinedReconstructor(inner).reconstruct(part), inner.reconstruct(part)
        np.testing.assert_array_equal(found.window_camera, plain.window_camera)
        np.testing.assert_array_equal(found.depth, plain.depth)
        assert found.report["refined"] == 0
        assert found.step_covariance is None
        assert any(reason in note for note in found.notes), found.notes


def test_priors_have_the_derivatives_of_their_costs() -> None:
    """Gradients against differences of the costs, for every parameter."""
    rng = np.random.default_rng(3)
    scene = _scene(rng)
    view = np.sort(rng.integers(0, 4, 30))
    depth = scene.in_cameras()[np.arange(30), view, 2] * np.exp(0.1 * rng.standard_normal(30))
    other = _moved(scene, 0.02 * rng.standard_normal(24), np.zeros((30, 3)))
    for prior in (PosePrior(other.rotation, other.translation, 0.01, 0.02), DepthPrior(view, depth, 0.05)):
        system = NormalEquations(np.zeros((24, 24)), np.zeros(24), np.zeros((3, 3, 30)), np.zeros((3, 30)),
                                 np.zeros((24, 3, 30)))
        prior.add_to(system, scene, np.arange(4))
        for column in range(24):
            step = np.zeros(24)
            step[column] = 1e-6
            slope = (prior.cost(_moved(scene, step, 0)) - prior.cost(_moved(scene, -step, 0))) / 2e-6
            # The pose prior's rotation is linearized at the expected pose: a few percent at a degree.
            assert slope / 2 == pytest.approx(system.cameras_gradient[column], rel=0.05, abs=0.05)
        for axis in range(3):
            step = np.zeros((30, 3))
            step[7, axis] = 1e-6
            ahead, behind = (prior.cost(_moved(scene, np.zeros(24), sign * step)) for sign in (1, -1))
            slope = (ahead - behind) / 2e-6
            # Weights of the robust loss are those of the square's tangent: the same slope.
            assert slope / 2 == pytest.approx(system.points_gradient[axis, 7], rel=1e-3, abs=1e-6)


def test_covariance_is_that_of_repeated_noise() -> None:
    """Steps adjusted from observations with noise scatter as their covariance says, within a factor of 1.5."""
    rng = np.random.default_rng(0)
    scene, noise = _scene(rng, 120), 0.1
    exact = scene.residuals(np.zeros((120, 4, 2)))
    visible = np.ones((120, 4), bool)
    steps, sigmas = [], []
    for _ in range(40):
        observed = exact + noise * rng.standard_normal(exact.shape)
        found = adjust(scene, observed, visible, AdjustmentOptions(20, 1e-5, loss_scale=5.0))
        covariance, _ = uncertainty(found, observed, visible, AdjustmentOptions(loss_scale=5.0))
        camera = np.array([pose(r, t) for r, t in zip(found.rotation, found.translation, strict=True)])
        step = camera[:-1] @ np.linalg.inv(camera[1:])
        steps.append([so3_log(matrix[:3, :3]) for matrix in step])
        sigmas.append(np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)[:, :3]))
    scatter = np.std(steps, axis=0)
    ratio = np.median(sigmas, axis=0) / scatter
    assert (ratio > 1 / 1.5).all(), ratio
    assert (ratio < 1.5).all(), ratio


def _scene(rng: np.random.Generator, count: int = 30) -> Scene:
    """Return four cameras on a curve that look at points 4 to 6 away."""
    cameras = np.array([pose(so3_exp(np.array([0, 0.1 * i, 0.02 * i])), np.array([0.5 * i, 0.1 * i * i, 0.05 * i]))
                        for i in range(4)])
    points = np.concatenate([rng.uniform(-2, 2, (count, 2)), rng.uniform(4, 6, (count, 1))], 1)
    return Scene(cameras[:, :3, :3], cameras[:, :3, 3], points, np.full((4, 2), 400.0))


def _moved(scene: Scene, step: Array, points: Array | float) -> Scene:
    """Return a scene with each camera perturbed on the left by six numbers, as bundle adjustment does."""
    turns = [so3_exp(part[:3]) for part in step.reshape(4, 6)]
    rotation = np.array([turn_ @ r for turn_, r in zip(turns, scene.rotation, strict=True)])
    translation = np.array([turn_ @ t + part[3:] for turn_, t, part in
                            zip(turns, scene.translation, step.reshape(4, 6), strict=True)])
    return Scene(rotation, translation, scene.points + points, scene.focal)
