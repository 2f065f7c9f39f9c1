"""Batched similarities against gtsam."""

import gtsam
import numpy as np

from vggt_ros.geometry.poses import so3_exp
from vggt_ros.geometry.sim3 import adjoint, exp, inverse, log, rotations, scales


def tangents(size):
    rng = np.random.default_rng(0)
    return size * rng.standard_normal((50, 7)) * np.array([1, 1, 1, 10, 10, 10, 0.3])


def test_exp_and_log_are_inverse():
    for size in (1e-9, 1e-3, 0.3, 1.0):
        x = tangents(size)
        x[:, :3] *= np.minimum(1, 3.1 / np.linalg.norm(x[:, :3], axis=1, keepdims=True))
        assert np.allclose(log(exp(x)), x, rtol=1e-7, atol=1e-12)


def test_exp_rotates_and_scales_as_gtsam():
    for x, matrix in zip(tangents(0.5), exp(tangents(0.5)), strict=True):
        expected = gtsam.Similarity3.Expmap(x)
        linear = expected.scale() * expected.rotation().matrix()
        assert np.allclose(matrix[:3, :3], linear)


def test_rotations_of_many_are_those_of_each():
    for size in (0.0, 1e-13, 1e-9, 1e-3, 1.0):
        vectors = tangents(size)[:, :3]
        assert np.allclose(rotations(vectors), [so3_exp(one) for one in vectors], rtol=0, atol=1e-14)


def test_adjoint_and_inverse():
    matrices, x = exp(tangents(0.5)), 0.1 * tangents(1.0)
    transformed = np.einsum("nij,nj->ni", adjoint(matrices), x)
    assert np.allclose(matrices @ exp(x) @ inverse(matrices), exp(transformed))
    assert np.allclose(scales(inverse(matrices)) * scales(matrices), 1)
