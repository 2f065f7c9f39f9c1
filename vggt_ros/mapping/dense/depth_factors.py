"""By which factors the depths of whole keyframes are wrong: those that make all of them agree best.

The depth of a keyframe may be wrong by a factor, as that of a network is, that of stereo on short baselines, and that
of windows whose scale drifts. What is measured is the ratio of the depths of two keyframes, where both see the same
surface. The factors are the ones of least squares over all pairs of the map, each of which is drawn to 1: so they
depend neither on the order in which keyframes were fused, nor on how often. If each were estimated from the present
ones of its neighbors alone, again and again, a small bias of the ratios would add up. What is hidden makes such a bias:
a point is rather behind what another keyframe has in its place than in front of it. Where both of two keyframes are
compared with the other one, it cancels.

The logarithms of the factors are improved one after the other (Gauss-Seidel), beginning with those that have news, and
go on to the neighbors of what changed. The pull to 1 bounds how far that goes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

_PRIOR = 3.0
"""Weight of a factor of 1, in measured ratios."""
_NEGLIGIBLE = 3e-4
"""Smaller changes of a logarithm do not concern the neighbors."""
_MAX_STEPS = 2000
"""Most factors that are improved at once, about 10 us each; the others follow later."""


class DepthFactors:
    """Logarithms of the factors by which the depths of keyframes are to be multiplied."""

    def __init__(self) -> None:
        """Begin without keyframes, whose factors are 1."""
        self._ratios: dict[int, dict[int, float]] = {}  # keyframe to its neighbors with the logarithms of the ratios
        self._compared_by: dict[int, set[int]] = defaultdict(set)  # keyframe to those whose neighbor it is
        self._logarithms: dict[int, float] = {}
        self._news: dict[int, None] = {}  # in the order in which they came

    def __getitem__(self, keyframe: int) -> float:
        """Return the logarithm of the factor of a keyframe; 0 if nothing is known of it."""
        return self._logarithms.get(keyframe, 0.0)

    def measure(self, keyframe: int, ratios: Mapping[int, float]) -> None:
        """Take the logarithms of the ratios of a keyframe's depth to those of its neighbors, in place of others."""
        self._forget_ratios(keyframe)
        self._ratios[keyframe] = dict(ratios)
        for neighbor in ratios:
            self._compared_by[neighbor].add(keyframe)
        self._logarithms[keyframe] = self._best(keyframe)
        self._news |= dict.fromkeys((keyframe, *ratios))

    def forget(self, keyframe: int) -> None:
        """Forget a keyframe that is not in the map any more; what others were compared with is kept until then."""
        self._forget_ratios(keyframe)
        for other in self._compared_by.pop(keyframe, ()):
            self._ratios[other].pop(keyframe, None)
        self._logarithms.pop(keyframe, None)
        self._news.pop(keyframe, None)

    def settle(self, complete: bool = False) -> None:
        """Improve the factors of all that have news, until nothing changes; but not too many, unless `complete`."""
        steps = 0
        while self._news and (complete or steps < _MAX_STEPS):
            keyframe = next(iter(self._news))
            del self._news[keyframe]
            best = self._best(keyframe)
            if abs(best - self[keyframe]) > _NEGLIGIBLE:
                self._logarithms[keyframe] = best
                self._news |= dict.fromkeys((*self._ratios.get(keyframe, ()), *self._compared_by.get(keyframe, ())))
            steps += 1

    def _best(self, keyframe: int) -> float:
        """Return the logarithm that fits best to the present ones of the others."""
        ratios, others = self._ratios.get(keyframe, {}), self._compared_by.get(keyframe, ())
        total = sum(self[other] - ratio for other, ratio in ratios.items())
        total += sum(self[other] + self._ratios[other][keyframe] for other in others)
        return total / (len(ratios) + len(others) + _PRIOR)

    def _forget_ratios(self, keyframe: int) -> None:
        for neighbor in self._ratios.pop(keyframe, ()):
            self._compared_by[neighbor].discard(keyframe)
