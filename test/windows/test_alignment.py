"""Alignment of a window against exact geometry, and the consistency of its covariance."""

import numpy as np
import pytest

from vggt_ros.config import AlignmentConfig
from vggt_ros.geometry.poses import Sim3, inverse, orthonormalize, pose, rotation_angle, so3_exp, so3_log
from vggt_ros.windows.alignment import AlignmentRefused, View, align, guess_alignment
from vggt_ros.windows.solution import MapKeyframe

CONFIG = AlignmentConfig()
INTRINSICS = np.array([[90.0, 0, 51.5], [0, 90.0, 38.5], [0, 0, 1]])
TRUTH = Sim3(1.7, so3_exp(np.array([0.2, -0.4, 0.1])), np.array([1.0, -2.0, 0.5]))


def keyframe_with_depth(keyframe: int, depth) -> MapKeyframe:
    """Return a keyframe with the given depth; the other data do not matter."""
    confidence = np.where(np.isfinite(depth), 200, 0).astype(np.uint8)
    return MapKeyframe(keyframe, keyframe, INTRINSICS, depth.astype(np.float16), confidence,
                        np.zeros((*depth.shape, 3), np.uint8))


def straight_line(rng, noise=0.0, count=3, rotating=True, step=0.1):
    """Return both sides of `count` keyframes on a straight line, where camera centers do not determine the rotation.

    They are a `step` apart, at a depth of about 2.5. `noise` is the sigma of rotations in radians, of centers in
    units of the depth, and a tenth of that of depth.
    """
    reference, window = {}, {}
    for k in range(count):
        depth = 2 + rng.random((8, 10)).repeat(10, 0).repeat(11, 1)[:78, :104] + 0.3 * rng.random((78, 104))
        camera = pose(so3_exp(np.array([0.0, 0.05 * k, 0.0]) if rotating else np.zeros(3)), np.array([step * k, 0, 0]))
        jitter = pose(so3_exp(noise * rng.standard_normal(3)), 2.5 * noise * rng.standard_normal(3))
        window[k] = View(camera, keyframe_with_depth(k, depth))
        blur = np.exp(3 * noise * rng.standard_normal(depth.shape))
        reference[k] = View(TRUTH.apply_pose(camera @ jitter), keyframe_with_depth(k, depth * TRUTH.scale * blur))
    return reference, window


def test_exact_overlap_gives_the_exact_similarity():
    """Up to the precision in which depth is stored."""
    found = align(*straight_line(np.random.default_rng(0)), CONFIG)
    assert found.reference_window.scale == pytest.approx(TRUTH.scale, rel=1e-3)
    assert rotation_angle(found.reference_window.rotation.T @ TRUTH.rotation) < 1e-4
    assert np.linalg.norm(found.reference_window.translation - TRUTH.translation) < 1e-3
    assert found.shared == (0, 1, 2)


def test_one_shared_keyframe_is_enough():
    """A pose with its depth determines a similarity."""
    found = align(*straight_line(np.random.default_rng(1), count=1), CONFIG)
    assert rotation_angle(found.reference_window.rotation.T @ TRUTH.rotation) < 1e-4
    assert found.reference_window.scale == pytest.approx(TRUTH.scale, rel=1e-3)


def test_the_guess_for_a_rejected_alignment_is_the_pose_of_the_first_shared_keyframe():
    """The other keyframes of the window are rotated; without depth in a shared keyframe there is no guess."""
    reference, window = straight_line(np.random.default_rng(3))
    for k in (1, 2):
        window[k] = View(window[k].camera @ pose(so3_exp(np.array([0, 0.3, 0])), np.zeros(3)), window[k].keyframe)
    with pytest.raises(AlignmentRefused):
        align(reference, window, CONFIG)
    shared, reference_window, covariance = guess_alignment(reference, window, CONFIG)
    assert shared == 0
    assert reference_window.scale == pytest.approx(TRUTH.scale, rel=1e-3)
    assert rotation_angle(reference_window.rotation.T @ TRUTH.rotation) < 1e-6
    assert np.allclose(reference_window.translation, TRUTH.translation, atol=1e-3)
    depth = window[0].keyframe.median_depth
    assert np.allclose(np.sqrt(np.diag(covariance)), [np.radians(5.0)] * 3 + [0.15 * depth] * 3 + [1.0])
    assert guess_alignment({9: reference[0]}, window, CONFIG) is None
    blind = View(reference[0].camera, keyframe_with_depth(0, np.full((78, 104), np.nan)))
    assert guess_alignment({0: blind, 1: reference[1]}, window, CONFIG)[0] == 1
    assert guess_alignment({0: blind}, window, CONFIG) is None


def test_keyframes_without_depth_align_by_their_poses_if_the_unit_is_known():
    """As after a turn on the spot. Without the same unit, nothing says how large the window is."""
    _, window = straight_line(np.random.default_rng(4))
    blind = keyframe_with_depth(0, np.full((78, 104), np.nan))
    reference = {k: View(TRUTH.apply_pose(window[k].camera), blind, TRUTH.scale) for k in (0, 1)}
    window = {k: View(view.camera, blind if k < 2 else view.keyframe) for k, view in window.items()}
    with pytest.raises(AlignmentRefused, match="min_pixels"):
        align(reference, window, CONFIG)
    found = align(reference, window, CONFIG, same_unit=True)
    assert found.reference_window.scale == pytest.approx(TRUTH.scale)
    assert rotation_angle(found.reference_window.rotation.T @ TRUTH.rotation) < 1e-6
    assert np.allclose(found.reference_window.translation, TRUTH.translation, atol=1e-6)
    assert found.shared == (0, 1) and np.isfinite(found.covariance).all()


def test_straight_lines_do_not_turn_the_map():
    """With noise of 1 mm at 2 m, aligned camera centers are wrong by tens of degrees; this stays below half of one."""
    worst = 0.0
    for seed in range(20):
        found = align(*straight_line(np.random.default_rng(seed), 5e-4, rotating=False), CONFIG)
        worst = max(worst, np.degrees(rotation_angle(found.reference_window.rotation.T @ TRUTH.rotation)))
    assert worst < 0.5


def test_scale_is_not_biased():
    """Noisy depth on either side: the mean over seeds of the logarithm of scale is the true one."""
    errors = []
    for seed in range(60):
        reference, window = straight_line(np.random.default_rng(seed), 0.01)
        errors.append(np.log(align(reference, window, CONFIG).reference_window.scale / TRUTH.scale))
        errors.append(np.log(align(window, reference, CONFIG).reference_window.scale * TRUTH.scale))
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(len(errors)) + 2e-4


@pytest.mark.parametrize(("step", "error"), [(0.02, 0.03), (1.0, 0.0)])
def test_cameras_that_are_far_apart_say_the_scale(step, error):
    """The depth of one side is 3 % too large, in the mean of its keyframes; near each other, it decides."""
    errors = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        reference, window = straight_line(rng, 0.001, count=8, rotating=False, step=step)
        for k, view in window.items():
            depth = view.keyframe.depth * np.exp(0.03 + 0.02 * rng.standard_normal())
            window[k] = View(view.camera, keyframe_with_depth(k, depth))
        found = align(reference, window, CONFIG, same_depth=True)
        errors.append(float(np.log(TRUTH.scale / found.reference_window.scale)))
        assert abs(errors[-1]) < 3.5 * np.sqrt(found.covariance[6, 6])
    assert np.mean(errors) == pytest.approx(error, abs=0.004)


def test_distances_that_contradict_depth_are_no_scale():
    """As where most of the depth is wrong: then the alignment is refused, as by the depth alone."""
    reference, window = straight_line(np.random.default_rng(0), count=6, step=0.5)
    for k, view in window.items():
        window[k] = View(view.camera, keyframe_with_depth(k, 0.4 * view.keyframe.depth))
    with pytest.raises(AlignmentRefused, match=r"alignment\.max_translation"):
        align(reference, window, CONFIG, same_depth=True)


@pytest.mark.parametrize(("noise", "limit"), [(0.001, 1.0), (0.002, 1.1), (0.004, 2.0)])
def test_the_covariance_is_honest(noise, limit):
    """The normalized squared error over its 7 degrees of freedom is near 1 where errors are as expected.

    Where they are twice as large the covariance follows: with fixed sigmas the ratio would be 4.
    """
    squares = []
    for seed in range(60):
        found = align(*straight_line(np.random.default_rng(seed), noise), CONFIG)
        error = TRUTH.inverse() @ found.reference_window
        vector = np.concatenate([so3_log(error.rotation), error.translation, [np.log(error.scale)]])
        squares.append(vector @ np.linalg.solve(found.covariance, vector))
    assert 0.2 < np.mean(squares) / 7 < limit


def test_outliers_in_depth_do_not_change_the_alignment():
    """A tenth of the pixels has its depth multiplied by 3."""
    rng = np.random.default_rng(0)
    reference, window = straight_line(rng)
    for k, view in list(reference.items()):
        depth = view.keyframe.depth.astype(float)
        depth[rng.random(depth.shape) < 0.1] *= 3
        reference[k] = View(view.camera, keyframe_with_depth(k, depth))
    found = align(reference, window, CONFIG).reference_window
    assert found.scale == pytest.approx(TRUTH.scale, rel=2e-3)
    assert rotation_angle(found.rotation.T @ TRUTH.rotation) < 2e-3


def test_rejections_name_their_reason():
    """Nothing shared, too little depth, a rotated keyframe, a translated one, contradicting depth."""
    reference, window = straight_line(np.random.default_rng(0))
    with pytest.raises(AlignmentRefused, match="the window shares no keyframe with the map"):
        align({}, window, CONFIG)
    empty = {k: View(v.camera, keyframe_with_depth(k, np.full((78, 104), np.nan))) for k, v in reference.items()}
    with pytest.raises(AlignmentRefused, match="500 pixels with depth"):
        align(empty, window, CONFIG)
    turned = dict(reference)
    turned[1] = View(reference[1].camera @ pose(so3_exp(np.array([0, 0.3, 0])), np.zeros(3)), reference[1].keyframe)
    with pytest.raises(AlignmentRefused, match=r"keyframe \d is (rotated|off)"):
        align(turned, window, CONFIG)
    moved = dict(reference)
    moved[1] = View(reference[1].camera @ pose(np.eye(3), np.array([2.5, 0, 0])), reference[1].keyframe)
    with pytest.raises(AlignmentRefused, match="keyframe 1 is off by"):
        align(moved, window, CONFIG)
    rng = np.random.default_rng(1)
    noisy = {k: View(v.camera, keyframe_with_depth(
        k, v.keyframe.depth.astype(float) * np.exp(rng.standard_normal((78, 104))))) for k, v in reference.items()}
    with pytest.raises(AlignmentRefused, match="differ by"):
        align(noisy, window, CONFIG)


def test_the_scale_of_a_view_is_applied_to_its_depth():
    """The reference may be given in map units."""
    reference, window = straight_line(np.random.default_rng(2))
    stretched = {}
    for k, view in reference.items():
        camera = view.camera.copy()
        camera[:3, 3] *= 4
        stretched[k] = View(camera, view.keyframe, 4.0)
    assert align(stretched, window, CONFIG).reference_window.scale == pytest.approx(4 * TRUTH.scale, rel=1e-3)
    assert np.allclose(orthonormalize(inverse(camera)[:3, :3]) @ camera[:3, :3], np.eye(3))
