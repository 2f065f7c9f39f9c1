"""Factors of the depth of keyframes: against a direct solution, and what must not add up."""

import numpy as np
import pytest

from vggt_ros.mapping.dense import depth_factors
from vggt_ros.mapping.dense.depth_factors import DepthFactors


def ratios(factors, reach=3, bias=0.0, noise=0.0):
    """Return for each keyframe the logarithms of the ratios to those near it; `bias` is in both directions."""
    rng = np.random.default_rng(0)
    return {i: {j: factors[j] - factors[i] + bias + noise * rng.standard_normal()
                for j in range(max(0, i - reach), min(len(factors), i + reach + 1)) if j != i}
            for i in range(len(factors))}


def direct(measured, prior):
    """Solve the normal equations."""
    count = len(measured)
    matrix, right = prior * np.eye(count), np.zeros(count)
    for i, others in measured.items():
        for j, ratio in others.items():
            matrix[i, i] += 1
            matrix[j, j] += 1
            matrix[i, j] -= 1
            matrix[j, i] -= 1
            right[i] -= ratio
            right[j] += ratio
    return np.linalg.solve(matrix, right)


@pytest.mark.parametrize("order", [1, -1])
def test_least_squares_in_any_order(order):
    measured = ratios(np.random.default_rng(1).normal(0, 0.05, 40), noise=0.02)
    factors = DepthFactors()
    for keyframe in sorted(measured, key=lambda k: order * k):
        factors.measure(keyframe, measured[keyframe])
        factors.settle()
    found = [factors[k] for k in measured]
    assert found == pytest.approx(direct(measured, depth_factors._PRIOR), abs=2e-3)


def test_a_bias_of_all_ratios_does_not_add_up():
    """Each keyframe's depth seems larger than that of all others: measured again and again, it is left alone."""
    measured = ratios(np.zeros(40), bias=0.02)
    factors = DepthFactors()
    for _ in range(5):
        for keyframe, others in measured.items():
            factors.measure(keyframe, others)
        factors.settle()
    assert max(abs(factors[k]) for k in measured) < 2e-3


def test_a_keyframe_that_is_forgotten_does_not_count():
    measured = ratios(np.r_[np.zeros(10), 0.5])
    factors = DepthFactors()
    for keyframe, others in measured.items():
        factors.measure(keyframe, others)
    factors.settle()
    assert abs(factors[9]) > 0.01
    factors.forget(10)
    factors.measure(9, {k: 0.0 for k in (6, 7, 8)})
    factors.settle()
    assert factors[10] == 0 and max(abs(factors[k]) for k in range(10)) < 2e-3


def test_the_work_of_one_call_is_bounded(monkeypatch):
    """What is left is done by the next calls."""
    monkeypatch.setattr(depth_factors, "_MAX_STEPS", 7)
    measured = ratios(np.random.default_rng(1).normal(0, 0.05, 40))
    bounded, whole = DepthFactors(), DepthFactors()
    for keyframe, others in measured.items():
        bounded.measure(keyframe, others)
        whole.measure(keyframe, others)
    bounded.settle()
    whole.settle(complete=True)
    expected = [whole[k] for k in measured]
    assert np.abs(np.array([bounded[k] for k in measured]) - expected).max() > 5e-3
    for _ in range(300):
        bounded.settle()
    assert [bounded[k] for k in measured] == pytest.approx(expected, abs=2e-3)
