"""One status that says how it goes: state, scale, counts, latencies, and what degrades."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from vggt_ros.reconstruction.deferred import FAILED, LOADING, DeferredReconstructor
from vggt_ros.ros.image_source import ImageSource
from vggt_ros.ros.latency import Latency
from vggt_ros.ros.messages import diagnostic_status
from vggt_ros.ros.metric_input import MetricInput
from vggt_ros.slam import Slam
from vggt_ros.windows.solution import TrackedFrame, Update
from vggt_ros.worker import Worker

STILL = 10.0
"""Seconds after the last keyframe, while images come, after which the camera is said to lack parallax."""


class Monitor:
    """Watches the parts and tells what it sees.

    Attributes:
        tracked: the newest tracked frame.
        update: the newest update.
        error: the last error of the worker, empty if there was none.
        track_seconds, publish_seconds: of the last images.
        latency: from an image's arrival to its odometry.
        trouble: returns what is wrong with the map on the disk, empty if nothing is.
        doubt: returns what is assumed of frames or clocks and may be wrong, empty if nothing is.
        resets, failed: how often the map began anew, and images on which tracking broke down.

    """

    def __init__(self, slam: Slam, worker: Worker, source: ImageSource,
                 reconstructor: DeferredReconstructor, metric: MetricInput) -> None:
        """Watch these."""
        self._slam, self._worker, self._source, self._reconstructor = slam, worker, source, reconstructor
        self._metric = metric
        self.track_seconds: list[float] = []
        self.publish_seconds: list[float] = []
        self.latency = Latency()
        self.resets = self.failed = 0
        self.trouble: Callable[[], str] = lambda: ""
        self.doubt: Callable[[], str] = lambda: ""
        self.clear()

    def clear(self) -> None:
        """Forget the map's state, after a reset."""
        self.tracked: TrackedFrame | None = None
        self.update: Update | None = None
        self.error = ""
        self._keyframe = time.monotonic()

    def note(self, tracked: TrackedFrame, track_seconds: float, publish_seconds: float) -> None:
        """Note what one image took."""
        if self.tracked is None or tracked.keyframe is not None:
            self._keyframe = time.monotonic()
        self.tracked = tracked
        for seconds, value in ((self.track_seconds, track_seconds), (self.publish_seconds, publish_seconds)):
            seconds.append(value)
            del seconds[:-100]

    def stuck(self) -> str:
        """Return what to do when no map begins since the images lack parallax; empty if one begins."""
        still = time.monotonic() - self._keyframe
        silent = time.monotonic() - self._source.last_arrival
        if self.tracked is None or self.tracked.state != "INITIALIZING" or still < STILL or silent > 3.0:
            return ""
        return (f"no keyframe for {still:.0f} s although images come: they lack parallax; move the camera sideways, do "
                "not only turn it, before a scene with texture, or lower keyframes.min_parallax")

    def status(self, name: str, active: bool) -> DiagnosticStatus:
        """Return the status as it is now; ERROR where nothing works, WARN where something degrades."""
        level, text = self._judge(active)
        slam, source, reconstructor = self._slam, self._source, self._reconstructor
        solution, update, counts = slam.solution, self.update, slam.counts
        values: dict[str, object] = {
            "state": reconstructor.state if reconstructor.state in (LOADING, FAILED) else
            self.tracked.state if self.tracked else "NO_IMAGE",
            "degraded by": self.tracked.reason if self.tracked and self.tracked.reason else "nothing",
            "mode": slam.config.mode,
            "scale": solution.metric.state,
            "scale sigma": solution.metric.sigma,
            "scale by": solution.metric.source,
            **self._metric.counts,
            **{f"scale by {name}": text for name, text in slam.scale.report.items()},
            "reconstructor": reconstructor.detail,
            **reconstructor.status_values,
            "calibration": source.calibration,
            "image topic": source.topic,
            **{f"images {key}": value for key, value in source.counts.items()},
            "images failed": self.failed,
            **vars(counts),
            "keyframes placed": len(solution),
            "last loop": slam.last_loop or "none",
            "windows waiting": self._worker.waiting,
            "worker": "idle" if self._worker.idle else "busy",
            "resets": self.resets,
            "decode ms": _milliseconds(source.seconds),
            "track ms": _milliseconds(self.track_seconds),
            "publish ms": _milliseconds(self.publish_seconds),
            **self.latency.report(),
        }
        if update is not None:
            values |= {"last window": update.window, "last window s": update.seconds,
                       "last reconstruction s": update.reconstruct_seconds, "last refusal": update.refused or "none",
                       **{f"window {key}": value for key, value in update.report.items()}}
        return diagnostic_status(name, level, text, values, hardware=source.topic)

    def _judge(self, active: bool) -> tuple[bytes, str]:
        source, tracked, update = self._source, self.tracked, self.update
        if self._reconstructor.state == FAILED:
            return DiagnosticStatus.ERROR, self._reconstructor.detail
        if self._reconstructor.state == LOADING:
            return DiagnosticStatus.WARN, f"loading: {self._reconstructor.detail}"
        if not active:
            return DiagnosticStatus.OK, "inactive"
        if trouble := self.trouble():
            return DiagnosticStatus.ERROR, trouble
        if self.error:
            return DiagnosticStatus.ERROR, f"a window was lost: {self.error}"
        if silence := source.silence():
            return DiagnosticStatus.WARN if source.counts["received"] else DiagnosticStatus.ERROR, silence
        if tracked is None:
            return DiagnosticStatus.WARN, f"no usable image yet{source.unusable}"
        if tracked.state == "LOST":
            return DiagnosticStatus.WARN, "lost: the image shows too little, or the map has nothing where it should be"
        if tracked.state == "RELOCALIZING":
            return DiagnosticStatus.WARN, "relocalizing: the camera is looked for in the map; show it a known place"
        if tracked.state == "DEGRADED":
            return DiagnosticStatus.WARN, f"degraded: {tracked.reason}"
        if update is not None and update.refused:
            return DiagnosticStatus.WARN, f"the last window was refused: {update.refused}"
        if stuck := self.stuck():
            return DiagnosticStatus.WARN, stuck
        if tracked.state == "INITIALIZING":
            return DiagnosticStatus.OK, "initializing: move the camera sideways until the first window is solved"
        parts = 1 if update is None else update.report.get("parts", 1)
        if parts > 1:
            return DiagnosticStatus.WARN, f"tracking; memory is short: windows are solved in {parts:.0f} parts"
        if source.calibration.endswith("degrees"):
            return DiagnosticStatus.WARN, (f"tracking with a calibration {source.calibration}: no usable "
                                           f"CameraInfo on {source.info_topic}; publish it, or set camera.fov")
        if doubt := self.doubt():
            return DiagnosticStatus.WARN, f"tracking; {doubt}"
        return DiagnosticStatus.OK, "tracking"


def _milliseconds(seconds: Iterable[float]) -> float:
    values = list(seconds)
    return float(1e3 * np.median(values)) if values else 0.0
