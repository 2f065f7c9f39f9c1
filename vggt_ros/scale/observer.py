"""Metric scale as a state with a sigma: what a unit of the map is in meters, and when the map is rescaled.

Scale is not observable with a single camera. Without a source of metric scale, the first window's median depth is taken
to be `scale.assumed_depth`, so that voxels, covariances and RViz have sensible units, and the state is UNKNOWN. It is
PRIOR with a metric reconstructor, with `scale.factor`, or in a submap that inherits the scale of the one before. When
the sources agree well enough and for long enough, the map is rescaled, once, and the state is OBSERVED. Later it is
rescaled again only if the change is significant and more than half a percent. When most of the measurements no longer
agree on one scale, the state goes back to PRIOR, with the sigma of their spread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import ScaleConfig
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.scale.ratios import ScaleEstimate, ScaleRatios, estimate_scale
from vggt_ros.scale.window_scales import WindowScaleEstimator
from vggt_ros.windows.solution import OBSERVED, PRIOR, UNKNOWN, MetricScale, Solution

_LOG = logging.getLogger(__name__)
_RECONSTRUCTOR_SIGMA = 0.1
"""Sigma of the scale of a reconstructor that is metric by its own account."""
_USER_FACTOR_SIGMA = 0.05
"""Sigma of `scale.factor`, which the user gives."""
_INHERITED_SIGMA = 0.4
"""Sigma of the scale of a submap that inherits the median depth of the one before: the scene may be another one."""
_MIN_INLIER_FRACTION = 0.6
"""Least fraction of the seconds with measurements that agree with an accepted estimate."""
_MIN_SECONDS = 5
"""Fewest seconds that agree with an accepted estimate: longer than a source usually has outliers at a stretch."""
_CONTRADICTED = "sources that no longer agree"
"""Source of the scale of a map that drifted so far that no one scale fits all of it: it is not OBSERVED then."""
_MIN_CHANGE = 0.005
"""Least relative change of an observed scale for which the map is rescaled."""


class ScaleSource(Protocol):
    """A source of metric scale. Its data come in on any thread, `ratios` is called on the worker's thread.

    Attributes:
        name: for the status.

    """

    name: str

    @property
    def remark(self) -> str:
        """What else it has estimated, for the status; empty if nothing."""
        ...

    def ratios(self, solution: Solution, rows: NDArray[np.int64], per_window: bool = False) -> ScaleRatios:
        """Return the ratios of meters to map units at the keyframes in `rows` (k,) of a solution.

        With `per_window`, only ratios that do not depend on the other windows' poses: the scale of single windows is
        estimated from these, and rescaling a window moves the others.
        """
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


@dataclass(frozen=True)
class Rescaling:
    """How the map has to be rescaled, and how well its scale is known then.

    Attributes:
        factor: by how much the newest window is scaled.
        log_scale: logarithm of the meters in a unit of each window of the submap that grows; empty if none changes.
        metric: state of the map's scale then.

    """

    factor: float
    log_scale: Mapping[int, float]
    metric: MetricScale


class ScaleObserver:
    """Estimates metric scale from all sources after every window.

    Attributes:
        sources: all of them.
        report: for each source by name, its newest estimate as text, for the status; replaced as a whole.

    """

    def __init__(self, config: ScaleConfig, sources: Sequence[ScaleSource] = ()) -> None:
        """Observe `sources`."""
        self._config = config
        self.sources = tuple(sources)
        self.report: dict[str, str] = {}
        self._window_scales = WindowScaleEstimator()

    def clear(self) -> None:
        """Forget all measurements, for a new map."""
        for source in self.sources:
            source.clear()
        self.report = {}
        self._window_scales = WindowScaleEstimator()

    def observe(self, solution: Solution) -> Rescaling | None:
        """Return the rescaling of the submap that grows by the measurements, or None if the map should not change."""
        if not self.sources or not len(solution):
            return None
        rows = np.flatnonzero(solution.submaps == solution.submaps[-1])
        per_window = [source.ratios(solution, rows, per_window=True) for source in self.sources]
        scales = self._window_scales.estimate(solution, rows, per_window)
        ratios_by_source = {source.name: source.ratios(solution, rows) for source in self.sources}
        ratios_by_source = {name: scales.correct(ratios) for name, ratios in ratios_by_source.items()}
        estimates = {name: estimate_scale(ratios) for name, ratios in ratios_by_source.items()}
        joined = ScaleRatios.join(list(ratios_by_source.values()))
        estimate = estimate_scale(joined)
        log_correction = float((scales.corrected - scales.scale)[-1])
        remarks = {source.name: source.remark for source in self.sources}
        self.report = {name: "; ".join(filter(None, (_describe(one, estimate, log_correction), remarks[name])))
                       for name, one in estimates.items() if one is not None}
        is_observed = solution.metric.state == OBSERVED
        if is_observed and estimate is not None and estimate.inlier_fraction < _MIN_INLIER_FRACTION:
            sigma = 1.4826 * float(np.median(np.abs(joined.log)))
            metric = MetricScale(PRIOR, max(sigma, solution.metric.sigma), _CONTRADICTED)
            _LOG.warning("scale is uncertain: %s, sigma %.2g %%", metric.source, 100 * metric.sigma)
            return Rescaling(1.0, {}, metric)
        if estimate is None or not self._is_accepted(estimate):
            return None
        corrected = scales.corrected + estimate.log
        change = corrected - scales.previous
        if is_observed and np.abs(change).max() < max(_MIN_CHANGE, 2 * estimate.random_sigma):
            return None
        log_scale = dict(zip(scales.windows, corrected.tolist(), strict=True))
        self._window_scales.record_applied(log_scale)
        agreeing = ", ".join(name for name, one in estimates.items()
                             if one is not None and _is_consistent(one, estimate))
        _LOG.info("the map was scaled by %.4g: its unit is the meter by %s, sigma %.2g %%", math.exp(change[-1]),
                  agreeing, 100 * estimate.sigma)
        return Rescaling(math.exp(change[-1]), log_scale, MetricScale(OBSERVED, estimate.sigma, agreeing))

    def _is_accepted(self, estimate: ScaleEstimate) -> bool:
        return (estimate.sigma <= self._config.max_sigma and estimate.inlier_fraction >= _MIN_INLIER_FRACTION
                and estimate.seconds >= _MIN_SECONDS)


def initial_scale(geometry: WindowGeometry, config: ScaleConfig) -> tuple[float, MetricScale]:
    """Return the map units in a unit of the first window, and the state of the map's scale then."""
    if geometry.metric:
        return 1.0, MetricScale(PRIOR, _RECONSTRUCTOR_SIGMA, "reconstructor")
    scale = config.assumed_depth / median_depth(geometry)
    return (config.factor or 1.0) * scale, configured_scale(config)


def median_depth(geometry: WindowGeometry) -> float:
    """Return the median of the known depth of a window; 1 if none is known, since the map needs some finite unit."""
    known = geometry.depth[geometry.depth > 0]
    return float(np.median(known)) if len(known) else 1.0


def configured_scale(config: ScaleConfig) -> MetricScale:
    """Return the state of the map's scale by the settings alone."""
    return MetricScale(PRIOR, _USER_FACTOR_SIGMA, "scale.factor") if config.factor > 0 else MetricScale()


def inherited_scale(before: MetricScale) -> MetricScale:
    """Return the state of the scale of a submap that inherits the median depth of the one `before`."""
    if before.state == UNKNOWN:
        return before
    return MetricScale(PRIOR, math.hypot(before.sigma, _INHERITED_SIGMA), "the submap before")


def factor_change(before: float, after: float) -> float:
    """Return the factor by which a map has to be scaled when `scale.factor` changes; 0 counts as 1."""
    return (after or 1.0) / (before or 1.0)


def _is_consistent(one: ScaleEstimate, estimate: ScaleEstimate) -> bool:
    return abs(one.log - estimate.log) < max(3 * math.hypot(one.sigma, estimate.sigma), 0.02)


def _describe(one: ScaleEstimate, estimate: ScaleEstimate | None, log_correction: float) -> str:
    """Return a source's estimate for the newest window as text, and whether it contradicts the estimate of all."""
    text = (f"{math.exp(one.log + log_correction):.4g} m per map unit, sigma {100 * one.sigma:.2g} %, "
            f"{one.seconds} s ({100 * one.inlier_fraction:.0f} %) of measurements agree")
    contradicts = estimate is not None and not _is_consistent(one, estimate)
    return text + ("; contradicts the other sources" if contradicts else "")
