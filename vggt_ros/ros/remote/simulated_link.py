"""A slow and lossy link, simulated by waiting: for tests of a reconstructor on another machine."""

from __future__ import annotations

import numpy as np

_PACKET = 1400
"""Bytes of a packet."""


class SimulatedLink:
    """How long messages take over a link with a transport that sends lost packets again, as DDS does."""

    def __init__(self, delay: float, loss: float, rate: float) -> None:
        """Set up the link.

        Args:
            delay: in each direction, seconds.
            loss: share of the packets that are lost, 0 to 0.9.
            rate: bits per second; 0: no limit.

        """
        self._delay, self._loss, self._rate = delay, loss, rate
        self._random = np.random.default_rng(0)

    def seconds(self, size: int) -> float:
        """Return how long a message of `size` bytes takes in one direction.

        Lost packets are sent again after the receiver has reported them: each round costs the delay twice.
        """
        packets, total = -(-size // _PACKET), self._delay
        while packets:
            total += 0.0 if self._rate == 0 else 8 * _PACKET * packets / self._rate
            packets = int(self._random.binomial(packets, self._loss))
            total += 2 * self._delay if packets else 0.0
        return total
