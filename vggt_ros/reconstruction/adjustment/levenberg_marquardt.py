"""Levenberg-Marquardt: Gauss-Newton steps that are damped until the cost does not rise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

_MOST = 1e6
"""Damping above which no step lowers the cost."""
State = TypeVar("State")


@dataclass(frozen=True)
class Damping:
    """Relative damping: to begin with, its factors after a step that fails and one that does not, and the least."""

    first: float
    increase: float
    decrease: float
    least: float


def levenberg_marquardt(state: State, cost: Callable[[State], float],
                        linearize: Callable[[State], Callable[[float], State]], iterations: int, tolerance: float,
                        damping: Damping) -> State:
    """Return the state of least cost.

    Args:
        state: initial values.
        cost: of a state.
        linearize: returns, for a state, what is the state after one step with a damping.
        iterations: most steps.
        tolerance: relative decrease of the cost below which it stops.
        damping: how the damping changes.

    """
    value, least = damping.first, cost(state)
    for _ in range(iterations):
        step = linearize(state)
        while True:
            candidate = step(value)
            new = cost(candidate)
            if new <= least or value > _MOST:
                break
            value *= damping.increase
        if value > _MOST:
            break
        gain = (least - new) / max(least, 1e-12)
        state, least, value = candidate, new, max(value / damping.decrease, damping.least)
        if gain < tolerance:
            break
    return state
