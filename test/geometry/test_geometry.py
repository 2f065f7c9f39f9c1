"""Transforms against their definitions and against gtsam as a second implementation."""

import gtsam
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_ros.geometry.poses import (
    Sim3,
    inverse,
    matrix_from_quaternion,
    mean_rotation,
    pose,
    quaternion_from_matrix,
    robust_sigma,
    rotation_angle,
    so3_exp,
    so3_log,
    umeyama,
)

vectors = st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(np.array)


@given(vectors)
@settings(max_examples=200, deadline=None)
def test_exp_and_log_agree_with_gtsam(omega):
    """Also near an angle of pi, where naive logarithms fail."""
    rotation = so3_exp(omega)
    assert np.allclose(rotation, gtsam.Rot3.Expmap(omega).matrix(), atol=1e-9)
    assert np.allclose(so3_exp(so3_log(rotation)), rotation, atol=1e-7)


@pytest.mark.parametrize("axis", np.eye(3))
def test_log_of_a_rotation_by_pi(axis):
    """A rotation by pi has no unique logarithm, but each one has length pi."""
    rotation = so3_exp(np.pi * axis)
    assert np.linalg.norm(so3_log(rotation)) == pytest.approx(np.pi)
    assert np.allclose(matrix_from_quaternion(quaternion_from_matrix(rotation)), rotation)


@given(vectors, vectors, st.floats(0.1, 10), vectors, vectors, st.floats(0.1, 10), vectors)
@settings(max_examples=100, deadline=None)
def test_similarities_form_a_group(w1, t1, s1, w2, t2, s2, point):
    """Composition, inverse and action agree with each other."""
    a, b = Sim3(s1, so3_exp(w1), t1), Sim3(s2, so3_exp(w2), t2)
    assert np.allclose((a @ b).apply(point), a.apply(b.apply(point)), atol=1e-6)
    assert np.allclose(a.inverse().apply(a.apply(point)), point, atol=1e-6)
    camera = pose(so3_exp(w2), t2)
    moved = a.apply_pose(camera)
    assert np.allclose(moved[:3, 3], a.apply(t2))
    assert np.allclose(moved[:3, :3] @ moved[:3, :3].T, np.eye(3))


def test_inverse_of_a_pose():
    """The inverse undoes the pose."""
    matrix = pose(so3_exp(np.array([0.3, -2.0, 1.0])), np.array([1.0, 2.0, 3.0]))
    assert np.allclose(inverse(matrix) @ matrix, np.eye(4))


def test_the_mean_of_rotations_scattered_evenly_about_one_is_that_one():
    """Rotations scattered evenly about one have it as their mean."""
    middle, spread = so3_exp(np.array([1.0, -0.5, 2.0])), np.concatenate([np.eye(3), -np.eye(3)]) * 0.2
    found = mean_rotation(np.array([middle @ so3_exp(s) for s in spread]))
    assert rotation_angle(found.T @ middle) < 1e-9


def test_umeyama_finds_the_similarity_and_no_reflection():
    """Exact points give the exact similarity; a reflected cloud still gives a rotation."""
    rng = np.random.default_rng(0)
    truth = Sim3(2.5, so3_exp(np.array([0.4, 0.8, -1.0])), np.array([3.0, -1.0, 0.5]))
    points = rng.standard_normal((20, 3))
    found = umeyama(points, truth.apply(points))
    assert found.scale == pytest.approx(2.5)
    assert np.allclose(found.apply(points), truth.apply(points))
    assert np.linalg.det(umeyama(points, points * [1, 1, -1]).rotation) == pytest.approx(1)


def test_robust_sigma_ignores_outliers():
    """A tenth of outliers changes a standard deviation a hundredfold, but hardly changes this estimate."""
    rng = np.random.default_rng(0)
    values = np.concatenate([0.5 * rng.standard_normal(900), 1000 * np.ones(100)])
    assert robust_sigma(values) == pytest.approx(0.5, rel=0.25)
