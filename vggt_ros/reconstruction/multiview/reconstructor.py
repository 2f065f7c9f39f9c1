"""`Multiview`: from the images of a window to poses and dense depth, or a refusal with its reason."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera, with_focal
from vggt_ros.geometry.poses import Array, inverse, pose
from vggt_ros.reconstruction.adjustment.bundle import Scene
from vggt_ros.reconstruction.adjustment.calibration_check import CalibrationCheck
from vggt_ros.reconstruction.adjustment.lens import UNCALIBRATED, Lens
from vggt_ros.reconstruction.adjustment.pinhole_images import PinholeImages
from vggt_ros.reconstruction.adjustment.rolling_shutter import READOUT_CHANGE, ReadoutEstimator
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.reconstruction.multiview.dense import depth as dense
from vggt_ros.reconstruction.multiview.dense.point_depth import depth_around_points
from vggt_ros.reconstruction.multiview.matching.tracks import track, well_spread
from vggt_ros.reconstruction.multiview.matching.views import Measurements, View
from vggt_ros.reconstruction.multiview.settings import MultiviewConfig
from vggt_ros.reconstruction.multiview.sfm.continuation import is_doubtful, known_part, solve_continued
from vggt_ros.reconstruction.multiview.sfm.lens_search import search_lens
from vggt_ros.reconstruction.multiview.sfm.local_map import MAX_VIEWS, LocalMap, numbered
from vggt_ros.reconstruction.multiview.sfm.quality import NO_METRICS
from vggt_ros.reconstruction.multiview.sfm.selection import solve_window
from vggt_ros.reconstruction.multiview.sfm.start_poses import joined_poses
from vggt_ros.reconstruction.multiview.sfm.turn import with_turned_views
from vggt_ros.reconstruction.multiview.sfm.window_solution import WindowSolution
from vggt_ros.reconstruction.multiview.window_geometry import downscale, window_geometry
from vggt_ros.windows.keyframe import Keyframe, Window

MAX_COST_OF_JOINING = 2.0
"""A window is kept in the local map up to this robust cost, over that of the window solved by itself."""
MAX_READOUT_UPDATES = 3
"""How often a window is solved, at most, until the readout time does not change any more."""


class Multiview:
    """Structure from motion on windows; between windows the newest keyframes are kept, and the readout time."""

    name = "multiview"
    on_cpu = True
    adjusted = True
    carries = "always"

    def __init__(self, config: Config) -> None:
        """Use the settings of the group `multiview`, and the seed."""
        self._settings = config.of(MultiviewConfig)
        self._seed = config.seed
        self._readout = ReadoutEstimator(self._settings.readout)
        self._local: LocalMap | None = None
        self._lens = Lens()
        self._searched: Lens | None = None  # what was found for the window that is being solved
        self._calibration: tuple[object, ...] = ()  # that the lens corrects
        self._check = CalibrationCheck()
        # The newest window of which a first choice of keyframes was refused, its readout time and new keyframes.
        self._refused: tuple[int, float, tuple[int, ...]] = -1, 0.0, ()

    @property
    def carried(self) -> tuple[Any, ...]:
        """What it takes from one window to the next; see `OptionalMembers`."""
        return self._local, self._lens, self._calibration, self._check, self._readout.state, self._refused

    @carried.setter
    def carried(self, values: tuple[Any, ...]) -> None:
        self._local, self._lens, self._calibration, self._check, self._readout.state, self._refused = values

    @property
    def readout(self) -> float:
        """Rolling-shutter readout time from the first to the last row, seconds, as configured or estimated so far."""
        return self._readout.seconds

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the camera, reduced to `multiview.width` on the longer side if it is larger."""
        return camera.size_within(self._settings.width)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window; keyframes that cannot be registered are left out.

        A window that continues the one before begins with what is known of it. If it does not fit to that, or without
        one before, it is solved by itself. If that is refused, too, a second choice of keyframes for the same window
        may continue by a turn on the spot.

        Raises:
            ReconstructionRefused: too few tracks, too little parallax, or no solution with enough inliers.

        """
        times = [time.perf_counter()]
        self._begin_lens(window.keyframes[0])
        self._searched = None
        known = {view.keyframe.id: view for view in self._local.views} if self._local else {}
        views = [known.get(k.id) or View.of(k, self._settings.corners) for k in window.keyframes]
        for _ in range(MAX_READOUT_UPDATES):
            solution, before = self._solve(window, views), self.readout
            if solution.turned is not None:
                break
            self._readout.update(*solution.newest(len(views)))
            if abs(self.readout - before) < READOUT_CHANGE:
                break
            # Rows that are shifted look like distortion, too: what was found so far is as good as nothing.
            forgotten = self._lens_sigmas(window.keyframes[0])[1]
            self._lens = replace(self._lens, radial_sigma=forgotten)
            self._searched = self._searched and replace(self._searched, radial_sigma=forgotten)
        times.append(time.perf_counter())
        # The joint window of a loop has no new keyframe: it is not continued, and its depth is for verification only.
        is_new = self._local is None or max(window.ids) > self._local.ids[-1]
        revised = tuple(k for k in solution.revised() if k in window.ids or k in window.earlier)
        local = self._local_map(solution, is_new, revised[1:], window.id)
        times.append(time.perf_counter())
        if is_new:
            self._local, self._lens = local, solution.solved.lens
            if window.keyframes[0].calibrated and not self._lens.focal_sigma:
                self._check = solution.checked(self._check)
        seconds = np.diff(times)
        turned = 0 if solution.turned is None else int(solution.turned.sum())
        report = {**asdict(solution.metrics), "continued": solution.known > 0, "turned": turned,
                  "revised": len(revised[1:]), "recalibrated": solution.is_recalibrated,
                  "unit_assumed": solution.unit_assumed, "scale_sigma": solution.scale_sigma(),
                  "readout_s": self.readout,
                  "radial": self._lens.applied, "radial_estimate": self._lens.radial,
                  "radial_sigma": self._lens.radial_sigma, **self._check.report,
                  "track_s": solution.track_seconds, "solve_s": seconds[0] - solution.track_seconds,
                  "depth_s": seconds[1]}
        return window_geometry(local, {*window.ids, *revised}, {name: float(value) for name, value in report.items()},
                               self.readout)

    def _solve(self, window: Window, views: list[View]) -> WindowSolution:
        continued = None
        local = self._local if self._local is not None and self._local.is_continued_by(window) else None
        new = [] if local is None else [view for view in views if view.keyframe.id not in local.ids]
        attempt = window.id, self.readout, tuple(view.keyframe.id for view in new)
        if local is not None and attempt != self._refused:  # else it would be refused again
            with suppress(ReconstructionRefused):  # by itself it may be solved, or refused with its own reason
                continued = self._solve_continued(local, new)
            if continued is not None and not is_doubtful(continued.solved, continued.measured.visible,
                                                         continued.known, local):
                return continued
        try:
            alone = self._solve_alone(views)
        except ReconstructionRefused:
            if continued is None and self._refused[0] != window.id:  # another choice of keyframes may do
                self._refused = attempt
                raise
            if continued is None and local is not None:
                continued = self._solve_turn(local, new)
            if continued is None:
                raise
            return self._with_turned_views(continued)
        found = [] if continued is None else [continued]
        if local is not None:
            with suppress(ReconstructionRefused):  # what they differ in says nothing against either: see `start_poses`
                found.append(self._solve_continued(local, new, alone))
        best = min(found, key=lambda s: s.cost(window.ids), default=alone)
        if local is not None and (wrong := best.contradicted(alone)):
            best = alone
            with suppress(ReconstructionRefused):
                best = self._solve_continued(local, [view for view in new if view.keyframe.id not in wrong])
        (missing, cost), (missing_alone, cost_alone) = best.cost(window.ids), alone.cost(window.ids)
        is_joined = missing <= missing_alone and cost < MAX_COST_OF_JOINING * cost_alone
        return self._with_turned_views(best) if is_joined and best is not alone else alone

    def _solve_turn(self, local: LocalMap, new: list[View]) -> WindowSolution | None:
        """Return the solution of new views to which the camera turned on the spot; None if it did not."""
        local, measured, seconds = self._measured_with(local, new)
        solved, reference = known_part(local, measured)
        turn = self._with_turned_views(WindowSolution(measured, solved, reference, NO_METRICS, seconds, local,
                                                     held=len(local.views)))
        return turn if turn.turned is not None else None

    @staticmethod
    def _with_turned_views(solution: WindowSolution) -> WindowSolution:
        """Return a continued solution with those of the new views that it lacks to which the camera only turned."""
        if solution.solved.registered.all():
            return solution
        completed = with_turned_views(solution.solved, solution.measured)
        turned = completed.registered & ~solution.solved.registered
        return replace(solution, solved=completed, turned=turned) if turned.any() else solution

    def _solve_alone(self, views: list[View]) -> WindowSolution:
        """Return the solution of the views of a window by themselves, in units of its median depth."""
        began = time.perf_counter()
        measured = Measurements(views, self._tracks(views)[0], self.readout, self._searched or self._lens)
        if self._searched is None:  # with another readout time the window is solved again, but not searched again
            measured = search_lens(measured, self._seed)
            self._searched = measured.lens
        seconds = time.perf_counter() - began
        measured, solved, reference, metrics = solve_window(measured, self._seed)
        unit = float(np.median(solved.scene.in_cameras()[..., 2][solved.inliers]))
        scene = replace(solved.scene, translation=solved.scene.translation / unit, points=solved.scene.points / unit)
        return WindowSolution(measured, replace(solved, scene=scene), reference, metrics, seconds)

    def _solve_continued(self, local: LocalMap, new: list[View], alone: WindowSolution | None = None) -> WindowSolution:
        """Return the solution of new views in the frame and units of a local map.

        It begins with the poses of the window solved `alone`, if that is given.
        """
        local, measured, seconds = self._measured_with(local, new)
        start = None if alone is None else joined_poses(local, (alone.measured, alone.solved), measured.views)
        measured, solved, reference, metrics, held = solve_continued(local, measured, start)
        return WindowSolution(measured, solved, reference, metrics, seconds, local,
                              unit_assumed=start is not None and start.unit_assumed, held=held)

    def _measured_with(self, local: LocalMap, new: list[View]) -> tuple[LocalMap, Measurements, float]:
        """Return the newest part of a local map, the tracks through it and new views, and the seconds they took."""
        began = time.perf_counter()
        local = local.newest(MAX_VIEWS - len(new))
        views = [*local.views, *new]
        known = np.full((len(local.tracks), len(views), 2), np.nan)
        known[:, :len(local.views)] = local.tracks
        tracks, rows = self._tracks(views, known)
        local = local.of_tracks(rows[rows < len(known)])
        measured = Measurements(views, tracks, self.readout, self._lens)
        return local, measured, time.perf_counter() - began

    def _tracks(self, views: list[View], known: Array | None = None) -> tuple[Array, NDArray[np.intp]]:
        """Return the tracks (n, S, 2) of views to solve, and their rows, with those of `known` tracks first."""
        tracks = track([view.features for view in views], [view.keyframe for view in views], known)
        rows = well_spread(tracks, views[0].features.gray.shape[::-1])
        return tracks[rows], rows

    def _begin_lens(self, keyframe: Keyframe) -> None:
        """Forget what is known of the lens if the calibration is another one than before."""
        calibration = (keyframe.calibrated, keyframe.image.shape, *keyframe.intrinsics.ravel().tolist())
        if calibration != self._calibration:
            self._calibration, self._local, self._check = calibration, None, CalibrationCheck()
            self._lens = Lens(1.0, 0.0, *self._lens_sigmas(keyframe))

    def _lens_sigmas(self, keyframe: Keyframe) -> tuple[float, float]:
        """Return the standard deviations of focal length and radial distortion before any window."""
        return (self._settings.focal_sigma, self._settings.radial_sigma) if keyframe.calibrated else UNCALIBRATED

    def _local_map(self, solution: WindowSolution, is_dense: bool, revised: Sequence[int], window: int) -> LocalMap:
        """Return the registered views of a solution as a local map, with the depth of those that are new or `revised`.

        Without `is_dense` depth is known around the points only. Points that are new get numbers by the `window`.
        """
        measured, solved, scene = solution.measured, solution.solved, solution.solved.scene
        pixels = measured.to_pixels(solved.observations, measured.shift_everywhere(scene), slice(None))
        tracks = np.where(solved.inliers[..., None], pixels, np.nan)
        kept = np.flatnonzero(solved.registered).tolist()
        views = [measured.views[s] for s in kept]
        known = {} if solution.before is None else solution.before.rescaled_depth(scene, tracks)
        camera_poses = np.array([inverse(pose(scene.rotation[s], scene.translation[s])) for s in kept])
        intrinsics = np.array([with_focal(view.keyframe.intrinsics, focal)
                               for view, focal in zip(views, scene.focal[kept], strict=True)])
        turned = [] if solution.turned is None else [row for row, s in enumerate(kept) if solution.turned[s]]
        wanted = [row for row, view in enumerate(views)
                  if (view.keyframe.id not in known or view.keyframe.id in revised) and row not in turned]
        small_grays, small_intrinsics = downscale([view.features.gray for view in views], intrinsics,
                                                  self._settings.depth_width)
        pinhole = PinholeImages(small_intrinsics[0], small_grays.shape[:0:-1], solution.radial, self.readout,
                                [view.velocity for view in views], views[0].features.gray.shape[::-1])
        if not wanted:
            depth = sigma = np.zeros((0, *small_grays.shape[1:]), np.float32)
        elif is_dense:
            depth, sigma = dense.dense_depth(pinhole.forward(small_grays), small_intrinsics, camera_poses, scene.points,
                                             solved.inliers[:, kept], wanted=wanted)
        else:
            depth, sigma = depth_around_points(small_intrinsics, camera_poses, scene.points, solved.inliers[:, kept],
                                               small_grays.shape[1:])
        # Each an array of its own: a view of one for all keyframes would keep all of it.
        for row in wanted:
            of_depth, of_sigma = pinhole.backward([depth[row], sigma[row]], row)
            known[views[row].keyframe.id] = of_depth, of_sigma
        nothing = np.full(small_grays.shape[1:], np.nan, np.float32)
        known |= {views[row].keyframe.id: (nothing, nothing) for row in turned}
        columns = np.full(len(measured.views), -1)
        columns[kept] = np.arange(len(kept))
        rows = np.flatnonzero(solved.inliers.any(1))
        return LocalMap(tuple(views), Scene(scene.rotation[kept], scene.translation[kept], scene.points[rows],
                                            scene.focal[kept]),
                        tracks[rows][:, kept], columns[solution.reference[rows]], known,
                        solution.cost_of_all(), solution.distance(), solution.radial,
                        numbered(solution.before, len(tracks), window)[rows])
