"""What a unit of the map means: metric scale as a state with a sigma, and when the map is rescaled.

A single camera does not see scale. Until a source of metric scale is there, the first window's median depth counts as
`scale.assumed_depth`, so that voxels, covariances and RViz have sensible units, and the state is UNKNOWN. A metric
reconstructor, `scale.factor`, or a submap that takes over what the one before knew make it PRIOR. When the sources
agree well enough and for long enough, the map is rescaled, once, and the state is OBSERVED. After that it is rescaled
again only when it pays: when the sources have come to say, beyond doubt, something else by more than half a percent.
When most of their evidence no longer agrees on one unit, the state goes back to PRIOR with the sigma that this shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import ScaleConfig
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.scale.ratios import RatioEstimate, Ratios, agree
from vggt_ros.scale.window_scales import ScaleMemory
from vggt_ros.windows.solution import OBSERVED, PRIOR, UNKNOWN, MetricScale, Solution

_METRIC = 0.1
"""Sigma of the unit of a reconstructor that says it is metric."""
_FACTOR = 0.05
"""Sigma of a unit that the user gave."""
_TAKEN_OVER = 0.4
"""Sigma of the unit of a submap that took over the median depth of the one before: what is seen may be quite another
place."""
_SHARE = 0.6
"""Least share of the evidence that agrees before it is believed."""
_SECONDS = 5
"""Least seconds of agreeing evidence: longer than a source usually lies."""
_CONTRADICTED = "sources that no longer agree"
"""When a map loses its scale on the way, no one unit of it is right any more: it is not called observed then."""
_PAYS = 0.005
"""Least change of an observed scale that is worth moving the map for."""


class ScaleSource(Protocol):
    """Something that knows meters: what it knows comes in on any thread, `ratios` is asked on the worker's.

    Attributes:
        name: for the status.

    """

    name: str

    @property
    def remark(self) -> str:
        """What else it has found out, for the status; empty if nothing."""
        ...

    def ratios(self, solution: Solution, rows: NDArray[np.int64], inside: bool = False) -> Ratios:
        """Return what it knows about the map's unit, from the keyframes in `rows` (k,) of a solution.

        With `inside`, only what single windows tell, wherever the others lie: scale from window to window is taken
        from that, because it moves them.
        """
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


@dataclass(frozen=True)
class Rescaling:
    """What the map has to become, and how well its unit is known then.

    Attributes:
        factor: by how much the newest window becomes larger.
        log_scale: logarithm of the meters in a unit of each window of the submap that grows; empty if none changes.
        metric: what is known of the map's unit then.

    """

    factor: float
    log_scale: Mapping[int, float]
    metric: MetricScale


class ScaleObserver:
    """Asks the sources after every window.

    Attributes:
        sources: all that there are.
        report: what each of them said last, in words, for the status; replaced as a whole.

    """

    def __init__(self, config: ScaleConfig, sources: Sequence[ScaleSource] = ()) -> None:
        """Watch `sources`."""
        self._config = config
        self.sources = tuple(sources)
        self.report: dict[str, str] = {}
        self._memory = ScaleMemory()

    def clear(self) -> None:
        """Forget all evidence, for a new map."""
        for source in self.sources:
            source.clear()
        self.report = {}
        self._memory = ScaleMemory()

    def observe(self, solution: Solution) -> Rescaling | None:
        """Return the rescaling that the evidence asks for, if it is worth it, for the submap that grows."""
        if not self.sources or not len(solution):
            return None
        rows = np.flatnonzero(solution.submaps == solution.submaps[-1])
        inside = [source.ratios(solution, rows, inside=True) for source in self.sources]
        scales = self._memory.compare(solution, rows, inside)
        seen = {source.name: source.ratios(solution, rows) for source in self.sources}
        seen = {name: scales.straightened(ratios) for name, ratios in seen.items()}
        found = {name: agree(ratios) for name, ratios in seen.items()}
        evidence = Ratios.join(list(seen.values()))
        estimate = agree(evidence)
        larger = float((scales.better - scales.scale)[-1])
        remarks = {source.name: source.remark for source in self.sources}
        self.report = {name: "; ".join(filter(None, (_in_words(one, estimate, larger), remarks[name])))
                       for name, one in found.items() if one is not None}
        known = solution.metric.state == OBSERVED
        if known and estimate is not None and estimate.share < _SHARE:
            spread = 1.4826 * float(np.median(np.abs(evidence.log)))
            return Rescaling(1.0, {}, MetricScale(PRIOR, max(spread, solution.metric.sigma), _CONTRADICTED))
        if estimate is None or not self._is_believed(estimate):
            return None
        better = scales.better + estimate.log
        change = better - scales.told
        if known and np.abs(change).max() < max(_PAYS, 2 * estimate.scatter):
            return None
        log_scale = dict(zip(scales.windows, better.tolist(), strict=True))
        self._memory.tell(log_scale)
        behind = ", ".join(name for name, one in found.items() if one is not None and _is_consistent(one, estimate))
        return Rescaling(math.exp(change[-1]), log_scale, MetricScale(OBSERVED, estimate.sigma, behind))

    def _is_believed(self, estimate: RatioEstimate) -> bool:
        return estimate.sigma <= self._config.max_sigma and estimate.share >= _SHARE and estimate.seconds >= _SECONDS


def initial_scale(geometry: WindowGeometry, config: ScaleConfig) -> tuple[float, MetricScale]:
    """Return map units in a unit of the first window, and what is known of the map's unit then."""
    if geometry.metric:
        return 1.0, MetricScale(PRIOR, _METRIC, "reconstructor")
    scale = config.assumed_depth / float(np.nanmedian(geometry.depth))
    return (config.factor or 1.0) * scale, given(config)


def given(config: ScaleConfig) -> MetricScale:
    """Return what is known of the map's unit by the settings alone."""
    return MetricScale(PRIOR, _FACTOR, "scale.factor") if config.factor > 0 else MetricScale()


def taken_over(before: MetricScale) -> MetricScale:
    """Return what is known of a submap's unit that begins with the median depth of the one `before`."""
    if before.state == UNKNOWN:
        return before
    return MetricScale(PRIOR, math.hypot(before.sigma, _TAKEN_OVER), "the submap before")


def refactored(before: float, after: float) -> float:
    """Return what a map is to be multiplied by when `scale.factor` changes; 0 counts as 1."""
    return (after or 1.0) / (before or 1.0)


def _is_consistent(one: RatioEstimate, estimate: RatioEstimate) -> bool:
    return abs(one.log - estimate.log) < max(3 * math.hypot(one.sigma, estimate.sigma), 0.02)


def _in_words(one: RatioEstimate, estimate: RatioEstimate | None, larger: float) -> str:
    """Return what a source says of the newest window, and whether it contradicts the estimate of all."""
    text = (f"{math.exp(one.log + larger):.4g} m a unit, sigma {100 * one.sigma:.2g} %, {one.seconds} s, "
            f"{100 * one.share:.0f} % of it agree")
    contradicts = estimate is not None and not _is_consistent(one, estimate)
    return text + ("; contradicts the other sources" if contradicts else "")
