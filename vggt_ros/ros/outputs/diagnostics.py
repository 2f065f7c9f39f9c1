"""The status message: state, scale, counts, latencies, and the most important problem with its cure."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from vggt_ros.reconstruction.adjustment.calibration_check import contradiction
from vggt_ros.reconstruction.deferred import FAILED, LOADING, DeferredReconstructor
from vggt_ros.ros.conversions.messages import diagnostic_status
from vggt_ros.ros.inputs.image_source import ImageSource
from vggt_ros.ros.inputs.metric_scale import MetricInput
from vggt_ros.ros.outputs.latency import Latency
from vggt_ros.slam import Slam
from vggt_ros.windows.frame import TrackedFrame
from vggt_ros.windows.solution import Update
from vggt_ros.worker import Worker

NO_KEYFRAME_TIMEOUT = 10.0
"""Seconds without a keyframe, while images arrive, after which missing parallax is reported."""
_CHANGE_PERIOD = 5.0
"""Least time between two lines of the log that the camera is found or lost, seconds."""


class StatusMonitor:
    """Collects the state of all parts of the node for the status message.

    Attributes:
        tracked: the newest tracked frame.
        update: the newest update.
        contradictions: how the images contradict the calibration, if they do; part of the `problems`.
        error: the last error of the worker, empty if the last window succeeded.
        track_seconds, publish_seconds: durations for the last 100 images.
        latency: times from the arrival of an image to its odometry.
        map_error: returns the error of loading the saved map, empty if there is none.
        map_problems: returns why maps cannot be saved, which is known before images come; part of the `problems`.
        problems: returns what is missing or may be wrong around the node, each in one line with the cure.
        is_paused: returns whether images are left out on request.
        map_adjusted: returns what became of the last adjustment of all keyframes.
        late_transforms: returns for how many images TF had no transform in time.
        resets, interruptions: number of resets of the map, and of jumps of time after which it went on.
        failed_images, lost_windows: number of images whose tracking raised an error, and of windows that were lost by
            one, such as a reconstructor that hung.

    """

    def __init__(self, slam: Slam, worker: Worker, source: ImageSource,
                 reconstructor: DeferredReconstructor, metric: MetricInput) -> None:
        """Monitor these parts of the node."""
        self._slam, self._worker, self._source, self._reconstructor = slam, worker, source, reconstructor
        self._metric = metric
        self.track_seconds: list[float] = []
        self.publish_seconds: list[float] = []
        self.latency = Latency()
        self.resets = self.interruptions = self.failed_images = self.lost_windows = 0
        self.callback_errors: Callable[[], Mapping[str, int]] = dict
        self.map_error: Callable[[], str] = lambda: ""
        self.problems: Callable[[], list[str]] = list
        self.map_problems: Callable[[], list[str]] = list
        self.is_paused: Callable[[], bool] = lambda: False
        self.map_adjusted: Callable[[], str] = lambda: "not yet"
        self._known_problems: set[str] = set()
        self.late_transforms: Callable[[], int] = lambda: 0
        self.clear()

    def clear(self) -> None:
        """Clear the state of the map, after a reset."""
        self.tracked: TrackedFrame | None = None
        self.update: Update | None = None
        self.contradictions: list[str] = []
        self.error = ""
        self._last_keyframe = time.monotonic()
        self._was_found, self._last_change = False, -_CHANGE_PERIOD

    def record_frame(self, tracked: TrackedFrame, track_seconds: float, publish_seconds: float) -> None:
        """Record a tracked image and its durations."""
        if self.tracked is None or tracked.keyframe is not None:
            self._last_keyframe = time.monotonic()
        self.tracked = tracked
        for seconds, value in ((self.track_seconds, track_seconds), (self.publish_seconds, publish_seconds)):
            seconds.append(value)
            del seconds[:-100]

    def record_update(self, update: Update) -> None:
        """Record a window that was processed without an error."""
        self.update, self.error = update, ""
        if update.report:  # a window that was refused has none
            self.contradictions = [text for text in [contradiction(update.report)] if text]

    def parallax_problem(self) -> str:
        """Return the cure if initialization gets no keyframes because the images lack parallax; else empty."""
        elapsed = time.monotonic() - self._last_keyframe
        since_image = time.monotonic() - self._source.last_arrival
        if self.tracked is None or self.tracked.state != "INITIALIZING" or elapsed < NO_KEYFRAME_TIMEOUT \
                or since_image > 3.0:
            return ""
        return (f"no keyframe for {elapsed:.0f} s although images arrive: they lack parallax; move the camera sideways "
                "in front of a textured scene, not only rotate it, or lower keyframes.min_parallax")

    def new_problems(self, active: bool) -> list[str]:
        """Return the problems that were not there at the last call, for the log; numbers in them do not count."""
        current = self.problems() if active else self.map_problems()
        problems = {re.sub(r"[\d.]+", "#", problem): problem for problem in current}
        new = [problem for kind, problem in problems.items() if kind not in self._known_problems]
        self._known_problems = set(problems)
        return new

    def found_or_lost(self) -> bool | None:
        """Return whether the camera is found now, if that is not as at the last call; for the log, so not too often."""
        found = self.tracked is not None and self.tracked.state in ("TRACKING", "DEGRADED")
        if found == self._was_found or time.monotonic() - self._last_change < _CHANGE_PERIOD:
            return None
        self._was_found, self._last_change = found, time.monotonic()
        return found

    def status(self, name: str, active: bool) -> DiagnosticStatus:
        """Return the current status; level ERROR if nothing works, WARN if something is degraded."""
        level, text = self.level_and_message(active)
        return diagnostic_status(name, level, text, self.values(), hardware=self._source.topic)

    def values(self) -> dict[str, object]:
        """Return state, scale, counts and latencies by their keys."""
        slam, source, reconstructor = self._slam, self._source, self._reconstructor
        solution, update, counts = slam.solution, self.update, slam.counts
        values: dict[str, object] = {
            "state": reconstructor.state if reconstructor.state in (LOADING, FAILED) else
            self.tracked.state if self.tracked and not source.silence_reason() else "NO_IMAGE",
            "degraded by": self.tracked.reason if self.tracked and self.tracked.reason else "nothing",
            "mode": slam.config.mode,
            "paused": "yes" if self.is_paused() else "no",
            "scale": solution.metric.state,
            "scale sigma": solution.metric.sigma,
            "scale by": solution.metric.source,
            **self._metric.health.counts,
            **{f"scale by {name}": text for name, text in slam.scale.report.items()},
            "reconstructor": reconstructor.detail,
            "reconstructor problem": reconstructor.problem or "none",
            "reconstructor reloads": reconstructor.reloads,
            **reconstructor.status_values,
            "calibration": source.calibration,
            "image topic": source.topic,
            **{f"images {key}": value for key, value in source.counts.items()},
            "images failed": self.failed_images,
            "windows lost": self.lost_windows,
            **{f"errors in {name}": count for name, count in self.callback_errors().items()},
            **vars(counts),
            "keyframes placed": len(solution),
            "last loop": slam.last_loop or "none",
            "map adjusted": self.map_adjusted(),
            "windows waiting": self._worker.backlog.waiting,
            "given up": self._worker.backlog.given_up or "nothing",
            "worker": "idle" if self._worker.idle else "busy",
            "transforms late": self.late_transforms(),
            "resets": self.resets,
            "interruptions": self.interruptions,
            "decode ms": _milliseconds(source.seconds),
            "track ms": _milliseconds(self.track_seconds),
            "publish ms": _milliseconds(self.publish_seconds),
            **self.latency.report(),
        }
        if update is not None:
            values |= {"last window": update.window, "last window s": update.seconds,
                       "last reconstruction s": update.reconstruct_seconds, "last refusal": update.refused or "none",
                       "last note": "; ".join(update.notes) or "none",
                       **{f"window {key}": value for key, value in update.report.items()}}
        return values

    def _hung_window(self) -> str:
        """Return that the reconstructor has been at a window beyond its deadline, if it has; else empty."""
        progress, deadline = self._worker.window_in_progress, self._slam.config.windows.deadline
        seconds = 0.0 if progress is None else time.monotonic() - progress[1]
        if progress is None or seconds < deadline:
            return ""
        return (f"window {progress[0]} has been in work for {seconds:.0f} s, longer than windows.deadline: the "
                "reconstructor hangs, or the machine is too slow")

    def level_and_message(self, active: bool) -> tuple[bytes, str]:
        """Return how well it goes: the level, and the most important problem with its cure."""
        source, tracked, update = self._source, self.tracked, self.update
        if self._reconstructor.state == FAILED:
            return DiagnosticStatus.ERROR, self._reconstructor.detail
        if self._reconstructor.state == LOADING:
            return DiagnosticStatus.WARN, f"loading: {self._reconstructor.detail}"
        if not active:
            problems = self.map_problems()
            return DiagnosticStatus.WARN if problems else DiagnosticStatus.OK, "; ".join(["inactive", *problems])
        if hung := self._hung_window():
            return DiagnosticStatus.ERROR, hung
        if error := self.map_error():
            return DiagnosticStatus.ERROR, error
        if self.error:
            return DiagnosticStatus.ERROR, f"a window failed: {self.error}"
        if self.is_paused():
            return DiagnosticStatus.OK, "paused: images are left out until ~/resume is called"
        if silence := source.silence_reason():
            return DiagnosticStatus.WARN if source.counts["received"] else DiagnosticStatus.ERROR, silence
        if tracked is None:
            return DiagnosticStatus.WARN, f"no usable image yet{source.no_frame_reason}"
        if source.unused:
            return DiagnosticStatus.WARN, source.unused
        if tracked.state == "LOST":
            return DiagnosticStatus.WARN, \
                "lost: too few features in the image, or no keyframe of the map near the expected pose"
        if tracked.state == "RELOCALIZING":
            return DiagnosticStatus.WARN, \
                "relocalizing: searching for the camera in the map; move it to a place that is already mapped"
        if tracked.state == "DEGRADED":
            return DiagnosticStatus.WARN, f"degraded: {tracked.reason}"
        if update is not None and update.refused:
            return DiagnosticStatus.WARN, f"the last window was refused: {update.refused}"
        if self._reconstructor.problem:
            return DiagnosticStatus.WARN, f"the reconstructor is {self._reconstructor.problem}"
        if problem := self.parallax_problem():
            return DiagnosticStatus.WARN, problem
        problems = self.problems()
        if slow := self._worker.backlog.given_up:
            problems = [slow, *problems]
        if tracked.state == "INITIALIZING":
            return DiagnosticStatus.WARN if problems else DiagnosticStatus.OK, "; ".join(
                ["initializing: move the camera sideways until the first window is solved", *problems])
        parts = 1 if update is None else update.report.get("parts", 1)
        if parts > 1:
            return DiagnosticStatus.WARN, f"tracking; memory is short: windows are solved in {parts:.0f} parts"
        if source.calibration.endswith("degrees"):
            problems = [f"the calibration is {source.calibration}: no usable CameraInfo on {source.info_topic}; "
                        "publish it, or set camera.fov", *problems]
        return DiagnosticStatus.WARN if problems else DiagnosticStatus.OK, "; ".join(["tracking", *problems])


def _milliseconds(seconds: Iterable[float]) -> float:
    values = list(seconds)
    return float(1e3 * np.median(values)) if values else 0.0
