"""Whether the sources of metric scale deliver what can be used: silence, refusals, another clock, no measurement.

A robot whose wheels, IMU and depth camera are all connected, but whose scale stays unknown, looks well otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from vggt_ros.ros.inputs.subscriptions import AdaptiveSubscription
from vggt_ros.scale.depth_source import STAMP_TOLERANCE
from vggt_ros.slam import Slam
from vggt_ros.windows.solution import OBSERVED

_SILENCE = 5.0
"""Seconds without a message of a source, or without one that is not refused, after which that is reported."""
_MAX_OFFSET = 3.0
"""Largest difference of the stamps of messages and images that arrive together, seconds: images may wait that long."""
_ENOUGH_KEYFRAMES = 20
"""Keyframes in the map with which each of the sources `_CAUSES` has measured its scale, if it can."""
_CAUSES = {"odometry": "do its poses move with the robot?",
           "imu": "are its turn rates in rad/s, and is its frame the right one in TF? Scale takes changes of speed.",
           "depth": f"is it registered to the images, with stamps within {STAMP_TOLERANCE / 1e6:.0f} ms of theirs?"}


class SourceHealth:
    """Watches the messages of the sources.

    Attributes:
        counts: number of messages of each source that were `taken` (used) and `refused`.

    """

    def __init__(self, slam: Slam) -> None:
        """Watch nothing yet; `slam` has the measurements."""
        self._slam = slam
        self.arrivals: dict[str, float] = {}
        self._image: tuple[int, float] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget the messages before a reset of the map."""
        self.counts: dict[str, int] = {}
        self._offsets: dict[str, float] = {}
        self._refused: dict[str, tuple[float, str]] = {}  # since when all are refused, and why the last one was

    def start(self, names: Iterable[str]) -> None:
        """Expect messages of these sources from now on."""
        self.arrivals = dict.fromkeys(names, time.monotonic())
        self._image = None
        self._offsets.clear()
        self._refused.clear()

    def take_image(self, stamp: int) -> None:
        """Note the stamp of an image, ns, with which the stamps of the sources are compared."""
        self._image = stamp, time.monotonic()

    def take(self, name: str, stamp: int) -> None:
        """Note a message of a source, with its stamp, ns, whether it can be used or not."""
        now = self.arrivals[name] = time.monotonic()
        if self._image is not None and now - self._image[1] < 1.0:
            self._offsets[name] = (stamp - self._image[0]) / 1e9

    def count_taken(self, name: str) -> None:
        """Count a message that is used."""
        self.counts[f"{name} taken"] = self.counts.get(f"{name} taken", 0) + 1
        self._refused.pop(name, None)

    def count_refused(self, name: str, reason: str) -> None:
        """Count a message that cannot be used."""
        self.counts[f"{name} refused"] = self.counts.get(f"{name} refused", 0) + 1
        self._refused[name] = self._refused.get(name, (time.monotonic(), ""))[0], reason[:300]

    def problems(self, subscriptions: Iterable[AdaptiveSubscription]) -> list[str]:
        """Return what is wrong with the sources, each in one line with the cure; one of them may not be subscribed."""
        found, now = [], time.monotonic()
        topics = {subscription.name: subscription for subscription in subscriptions}
        for name, arrival in self.arrivals.items():
            source = f"{name}, a source of scale,"
            if now - arrival > _SILENCE:
                why = topics[name].explain_silence() if name in topics else "TF has no odometry at the images' stamps"
                found.append(f"{source} is silent for {now - arrival:.0f} s: {why}")
            elif name in self._refused and now - self._refused[name][0] > _SILENCE:
                found.append(f"{source} is refused: {self._refused[name][1]}")
            elif abs(offset := self._offsets.get(name, 0.0)) > _MAX_OFFSET:
                found.append(f"{source} has stamps {abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} those "
                             "of the images that arrive with it: let both drivers use one clock")
            elif self._measures_nothing(name):
                found.append(f"{source} arrives, but measures nothing: {_CAUSES[name]}")
        return found

    def _measures_nothing(self, name: str) -> bool:
        solution = self._slam.solution
        return (name in _CAUSES and name not in self._slam.scale.report and solution.metric.state != OBSERVED
                and len(solution) >= _ENOUGH_KEYFRAMES)
