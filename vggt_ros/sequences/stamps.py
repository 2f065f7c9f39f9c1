"""Stamps of images: late images, and jumps of time; the same for the node, which gets them live, and for `replay`."""

from __future__ import annotations

import math
from enum import Enum, auto


class Order(Enum):
    """How the stamp of an image relates to those before it."""

    NEXT = auto()
    """Newer than the last one."""
    LATE = auto()
    """Older than the last one, or the same; or so far away that the next image has to confirm it."""
    JUMP = auto()
    """Time has jumped back: the image does not continue those before it."""


class StampCheck:
    """Compares each stamp with the last one that was accepted.

    A step back within the limit is a late image. A larger one, or one forward that is larger than the time that has
    passed, is a jump if the next image agrees; else it was one wrong stamp.

    Attributes:
        reason: why the last stamp was not `NEXT`, as the end of a sentence about the image.

    """

    def __init__(self, limit: float) -> None:
        """Take the largest step that is not a jump, seconds."""
        self._limit = round(limit * 1e9)
        self._last: int | None = None
        self._last_arrival: float | None = None
        self._unconfirmed: int | None = None
        self.reason = ""

    def check(self, stamp: int, arrival: float | None = None, restarts: bool = False) -> Order:
        """Return how `stamp`, nanoseconds, relates to the last one.

        Args:
            stamp: of the image.
            arrival: when it arrived, seconds of a monotonic clock; None if the images do not come live, as in
                simulated time or from a recording: then steps forward are not checked.
            restarts: whether a bag may begin again, as in simulated time: then a jump back needs no agreement.

        """
        last, passed = self._last, math.inf if arrival is None or self._last_arrival is None else round(
            (arrival - self._last_arrival) * 1e9)
        if last is None or 0 < stamp - last <= passed + self._limit:
            return self._accept(stamp, arrival, Order.NEXT)
        step = stamp - last
        if -self._limit < step <= 0:
            self.reason = f"is {-step / 1e6:.1f} ms older than the one before" if step else \
                "has the stamp of the one before"
            return Order.LATE
        confirmed = self._unconfirmed is not None and 0 < stamp - self._unconfirmed <= passed + self._limit
        self.reason = f"stamps jumped {'ahead' if step > 0 else 'back'} by {abs(step) / 1e9:.2f} s"
        if confirmed or restarts:
            return self._accept(stamp, arrival, Order.NEXT if step > 0 else Order.JUMP)
        self._unconfirmed = stamp
        self.reason = (f"is {abs(step) / 1e9:.2f} s {'newer' if step > 0 else 'older'} than the one before; "
                       "if the next one agrees, time has jumped")
        return Order.LATE

    def _accept(self, stamp: int, arrival: float | None, order: Order) -> Order:
        self._last, self._last_arrival, self._unconfirmed = stamp, arrival, None
        return order
