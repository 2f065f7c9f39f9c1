"""Lens of a camera without a calibration: of a range, the one whose solution the tracks agree with best.

Bundle adjustment alone finds the focal length only from a start that is off by 15 percent or less: from 30 percent the
two-view geometry is wrong already, and no window is solved. Phones, webcams and action cameras differ by a factor of
two, and wide lenses have a distortion without which no focal length fits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.multiview.matching.views import Measurements
from vggt_ros.reconstruction.multiview.sfm.poses import rank_initial_pairs, robust_cost
from vggt_ros.reconstruction.multiview.sfm.selection import diversify, longest_tracks, select_best

UNKNOWN = 0.15
"""Relative standard deviation of the focal length from which it is searched for."""
STEPS = 2.0 ** (np.array([0, -1, 1, -2, 2, -3, 3]) / 3)
"""Factors of the assumed focal length: from 35 to 104 degrees of field of view where 65 are assumed."""
RADIALS = (0.2, 0.4)
"""Radial distortions of wide lenses (barrel)."""
PAIRS = 3
"""Initial pairs that are tried for each of them."""
GAIN, RADIAL_GAIN = 0.05, 0.2
"""Shares by which the robust cost has to fall for another focal length, and for a distortion."""


def search_lens(measured: Measurements, seed: int) -> Measurements:
    """Return measurements with the lens of lowest robust cost, if the focal length is unknown; else the same ones.

    Args:
        measured: the tracks of a window.
        seed: seed of RANSAC.

    """
    if measured.lens.focal_sigma < UNKNOWN:
        return measured
    best, cost, assumed = _search_focal(measured, seed)
    if not cost < (1 - GAIN) * assumed:
        best, cost = measured, assumed
    for radial in RADIALS:
        bent, bent_cost, _ = _search_focal(replace(measured, lens=replace(measured.lens, radial=radial)), seed)
        if bent_cost < (cost if best.lens.radial else (1 - RADIAL_GAIN) * cost):
            best, cost = bent, bent_cost
    return best


def _search_focal(measured: Measurements, seed: int) -> tuple[Measurements, float, float]:
    """Return measurements with the focal length of lowest robust cost, this cost, and that of the assumed one."""
    lens = measured.lens
    factors = lens.focal_factor * STEPS
    candidates = [replace(measured, lens=replace(lens, focal_factor=float(factor))) for factor in factors]
    costs = np.array([_cost(candidate, seed) for candidate in candidates])
    best, order = int(np.argmin(costs)), np.argsort(factors)
    factor = _minimum(np.log(factors[order]), costs[order])
    between = replace(measured, lens=replace(lens, focal_factor=float(np.exp(factor))))
    found = min((_cost(between, seed), between), (float(costs[best]), candidates[best]), key=lambda entry: entry[0])
    return found[1], found[0], float(costs[0])


def _cost(measured: Measurements, seed: int) -> float:
    """Return the robust cost of the best solution, square pixels; infinite without one."""
    observations, visible, focal = measured.observations, measured.visible, measured.focal
    pairs = diversify(rank_initial_pairs(observations, visible, focal))[:PAIRS]
    rows = longest_tracks(visible, range(visible.shape[1]))
    try:
        best, _ = select_best(observations[rows], visible[rows], focal, pairs, seed)
    except ReconstructionRefused:
        return np.inf
    return robust_cost(best.scene, observations[rows], visible[rows], best.registered)


def _minimum(places: Array, values: Array) -> float:
    """Return where the parabola through the lowest of the values and its neighbors has its minimum."""
    lowest = int(np.argmin(values))
    near = slice(lowest - 1, lowest + 2)
    if not 0 < lowest < len(values) - 1 or not np.isfinite(values[near]).all():
        return float(places[lowest])
    square, slope, _ = np.polyfit(places[near] - places[lowest], values[near], 2)
    return float(places[lowest] - (slope / (2 * square) if square > 0 else 0.0))
