"""A recorded sequence through the pipeline of the node, without ROS, as fast as possible; no window is dropped."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vggt_ros.config import Config
from vggt_ros.evaluation.errors import Accuracy, EvaluationError, accuracy
from vggt_ros.geometry.poses import Array
from vggt_ros.mapping.files.restored_map import restore
from vggt_ros.odometry.frame_trajectory import frame_trajectory, in_time
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.reconstruction.refined import refined_as_configured
from vggt_ros.replay.forecast import Forecast
from vggt_ros.replay.frames import FrameMaker, FrameSource, is_after_jump
from vggt_ros.replay.metric_sources import MetricData, MetricSources
from vggt_ros.sequences.sequence import Sequence, Truth
from vggt_ros.slam import Slam
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.windows.frame import Frame, TrackedFrame
from vggt_ros.windows.keyframe import Window
from vggt_ros.windows.solution import Update
from vggt_ros.workers.ahead import AheadReconstructor
from vggt_ros.workers.pool import Pool

_LOG = logging.getLogger(__name__)
_NO_METRIC_DATA = MetricData()


@dataclass(frozen=True, eq=False)
class Run:
    """Result of a replay.

    Attributes:
        sequence: the images.
        config: the settings.
        reconstructor: name of the reconstructor, and why it was chosen.
        slam: with the map.
        frames: every image's pose as it was tracked.
        updates: result of each window.
        dropped_images: number of images left out because they are no newer than the one before, as in the node.
        jumps: how often time jumped back, each as a text; the map went on, as in the node.
        dark_images: number of images that were not located, and are dark.
        failures: images and windows that were lost by an error, as in the node, each with its error.
        seconds: wall time.
        loaded: the saved map that was loaded at the start, None if the map began empty.
        interrupted: whether the rest of the images was not taken because an end was asked for.
        workers: with workers: how many, windows that they solved ahead, others, requests sent again because a worker
            had died, and how often the expected windows were corrected.
        adjusted: what became of the bundle adjustment of the whole map, empty if there was none.

    """

    sequence: Sequence
    config: Config
    reconstructor: str
    slam: Slam
    frames: list[TrackedFrame]
    updates: list[Update]
    dropped_images: int
    jumps: list[str]
    dark_images: int
    failures: list[str]
    seconds: float
    loaded: MapRecord | None = None
    interrupted: bool = False
    workers: dict[str, int] = dataclasses.field(default_factory=dict)
    adjusted: str = ""

    @property
    def first_keyframe(self) -> int:
        """The least id of a keyframe of this run; those below it are of the loaded map."""
        return 0 if self.loaded is None else self.loaded.next_keyframe

    def trajectory(self, submap: int) -> Truth:
        """Return stamps (n,), rising, and `map_camera` (n, 4, 4) of this run's keyframes in a submap by the graph.

        In mode localization, which adds no keyframes, those of every located image.
        """
        if self.config.mode == "localization":
            return self.frame_trajectory(submap)
        stamps, poses = self.slam.solution.trajectory(submap)
        solution = self.slam.solution
        is_new = solution.ids[solution.submaps == submap] >= self.first_keyframe
        return in_time(stamps[is_new], poses[is_new])

    def accuracy(self, with_scale: bool = True) -> Accuracy | None:
        """Return the errors of `trajectory` in the largest submap; None without ground truth or with too few poses.

        Aligned by a similarity, or without `with_scale` by a rigid motion, so that an error of scale counts.
        """
        return self._against_truth(*self.trajectory(self.slam.solution.largest_submap), with_scale=with_scale)

    def frame_trajectory(self, submap: int) -> tuple[NDArray[np.int64], Array]:
        """Return stamps (n,) and poses (n, 4, 4) of the images located in a submap; see `frame_trajectory`."""
        return frame_trajectory(self.frames, self.slam.solution, submap)

    def frame_figures(self) -> dict[str, float | None]:
        """Return the fraction of all images that the largest submap locates, and their errors."""
        stamps, poses = self.frame_trajectory(self.slam.solution.largest_submap)
        frames, keyframes = self._against_truth(stamps, poses), self.accuracy()
        located = [(tracked.stamp, tracked.odom_camera) for tracked in self.frames if tracked.odom_camera is not None]
        odometry = self._against_truth(np.array([stamp for stamp, _ in located], np.int64),
                                       np.array([matrix for _, matrix in located]).reshape(-1, 4, 4))
        return {
            "frames_located": len(stamps) / max(len(self.frames), 1),
            "frames_ate_rmse_m": frames.ate_rmse if frames else None,
            "frames_ate_to_keyframes": frames.ate_rmse / keyframes.ate_rmse if frames and keyframes else None,
            "frames_rpe_1s_m": frames.rpe_second_translation if frames else None,
            "frames_rpe_1s_deg": frames.rpe_second_rotation if frames else None,
            "odometry_rpe_1s_m": odometry.rpe_second_translation if odometry else None,
            "odometry_rpe_1s_deg": odometry.rpe_second_rotation if odometry else None,
        }

    def _against_truth(self, stamps: NDArray[np.int64], poses: Array, with_scale: bool = True) -> Accuracy | None:
        if self.sequence.truth is None:
            return None
        try:
            return accuracy(stamps, poses, *self.sequence.truth, with_scale=with_scale)
        except EvaluationError:
            return None


def run(sequence: Sequence, config: Config, reconstructor: Reconstructor | None = None, progress: bool = False, *,
        metric: MetricData = _NO_METRIC_DATA, loaded: MapRecord | None = None, workers: Pool | None = None,
        stop: Callable[[], bool] = lambda: False,
        on_update: Callable[[Slam, Update], None] | None = None,
        on_frame: Callable[[Slam, Frame, TrackedFrame], None] = lambda slam, frame, tracked: None) -> Run:
    """Run a sequence through the pipeline.

    Args:
        sequence: images and their camera.
        config: all settings.
        reconstructor: used instead of the one in the settings.
        progress: show a progress bar.
        metric: what metric scale is taken from.
        loaded: a saved map to continue.
        workers: solve windows, those of the images ahead too; the results are the same.
        stop: asked before each image whether to end; the map of the images before it is the result. From then on it
            has to stay true: a map that is being adjusted is left as it was.
        on_update: called after each window that was solved; without it, `slam.surface` is complete at the end only.
        on_frame: called after each image, before the window that it completes.

    Raises:
        SequenceError: the recording cannot be read.
        KeyboardInterrupt: `stop` asks for an end while the reconstructor is loaded.
        ConfigError: the picture of the setting camera.mask cannot be used.

    """
    cv2.setRNGSeed(config.seed)  # of RANSAC
    reason, ahead = "as given", None
    if workers is not None:
        ahead = AheadReconstructor(workers)
        reconstructor, reason = refined_as_configured(ahead, config), workers.reason
    elif reconstructor is None:
        reconstructor, reason = _loaded_reconstructor(config, progress, stop)
    slam = Slam(config, reconstructor)
    slam.follows_map = on_update is not None  # if nobody looks, once at the end costs half
    if loaded is not None:
        slam.reset_tracking(loaded)
        slam.reset_map(restore(loaded, config))
    make_frame = FrameMaker(sequence, reconstructor, config)
    frames: list[TrackedFrame] = []
    updates: list[Update] = []
    failures: list[str] = []
    source = FrameSource(sequence, make_frame, config.camera.max_step)
    sources = MetricSources(slam, sequence, make_frame.rectify, metric)
    forecast = None if ahead is None else Forecast(slam, reconstructor, ahead, config)
    interrupted, began = False, time.perf_counter()
    with tqdm(total=len(sequence), unit="image", disable=not progress, dynamic_ncols=True) as bar:
        for frame in source if forecast is None else forecast.frames(iter(source)):
            interrupted = stop()
            if interrupted:
                break
            bar.update()
            sources.feed(frame.stamp)
            if is_after_jump(slam, frame):  # as in the node: the camera is searched for, or a submap begins
                _finish(slam, updates, failures, on_update)
                slam.interrupt()
            try:
                tracked = slam.track(frame)
            except Exception as error:  # as in the node: one image must not cost the results of all others
                _add_failure(failures, f"the image at {frame.stamp} ns", error)
                continue
            on_frame(slam, frame, tracked)
            if tracked.window is not None:
                _solve(slam, tracked.window, updates, failures, on_update)
                bar.set_postfix(keyframes=slam.counts.keyframes, windows=slam.counts.windows,
                                submaps=slam.counts.submaps)
                tracked = dataclasses.replace(tracked, window=None)  # frees its images
            frames.append(tracked)
        _finish(slam, updates, failures, on_update)
        bar.set_description("finishing the map")
        adjusted = _adjust(slam, stop, bar) if config.map.adjust else ""
        slam.surface.update(slam.solution, complete=True)  # what windows left for later ones
    frames = _with_late_poses(slam, frames)
    dark = sum(frame.stamp in source.dark and frame.map_camera is None for frame in frames)
    return Run(sequence, config, reason, slam, frames, updates, source.dropped, source.jumps, dark, failures,
               time.perf_counter() - began, loaded, interrupted, {} if forecast is None else forecast.figures, adjusted)


def _loaded_reconstructor(config: Config, show: bool, stop: Callable[[], bool]) -> tuple[Reconstructor, str]:
    """Return the reconstructor and why it was chosen; print what it waits for.

    Raises:
        KeyboardInterrupt: `stop` asks for an end while it is loaded.

    """
    said: set[str] = set()

    def progress(text: str) -> None:
        if stop():
            raise KeyboardInterrupt
        if show and (words := re.sub(r"[\d.,]+", "", text)) not in said:  # not every percent of a download
            said.add(words)
            print(text, file=sys.stderr, flush=True)

    return create_reconstructor(config, progress)


def _with_late_poses(slam: Slam, frames: list[TrackedFrame]) -> list[TrackedFrame]:
    """Return the frames, with poses of those that had none when they came, by the keyframes that are solved now."""
    late = {tracked.stamp: tracked for tracked in slam.located_late}
    return [dataclasses.replace(late[frame.stamp], keyframe=frame.keyframe)
            if frame.stamp in late and frame.map_camera is None else frame
            for frame in frames]


def _finish(slam: Slam, updates: list[Update], failures: list[str],
            on_update: Callable[[Slam, Update], None] | None) -> None:
    """Solve the partial window of the newest keyframes, and locate all images that can be located by now."""
    last = slam.flush()
    if last is not None:
        _solve(slam, last, updates, failures, on_update)
    slam.locate_late()


def _adjust(slam: Slam, stop: Callable[[], bool], bar: tqdm[Any]) -> str:
    """Adjust all keyframes at once, and return what became of it."""
    steps = itertools.count(1)

    def check() -> None:
        if stop():
            raise InterruptedError
        bar.set_postfix(step=next(steps))

    adjustment = slam.adjustment()
    try:
        adjustment.solve(check)
    except InterruptedError:
        return "the keyframes were not adjusted at once: replay was interrupted"
    return slam.take_adjusted(adjustment)


def _solve(slam: Slam, window: Window, updates: list[Update], failures: list[str],
           on_update: Callable[[Slam, Update], None] | None) -> None:
    """Solve a window; if it raises an error, the window is lost, as in the node."""
    try:
        update = slam.step(window)
    except Exception as error:
        _add_failure(failures, f"window {window.id}", error)
        return
    updates.append(update)
    if on_update is not None:
        on_update(slam, update)


def _add_failure(failures: list[str], what: str, error: Exception) -> None:
    if not failures:
        _LOG.error("%s failed", what, exc_info=error)
    failures.append(f"{what} failed: {error!r}")
