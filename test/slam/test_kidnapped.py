"""A camera covered for 5 s and uncovered elsewhere is relocalized in the same map, and never at a wrong pose."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import pytest
from scenes import SIZE, lap, run, trajectory_error

from vggt_ros.config import Config, TrackingConfig
from vggt_ros.features.tracks import ImageFeatures
from vggt_ros.geometry.poses import Array, pose, rotation_angle, so3_exp
from vggt_ros.places.relocalization import Relocalizer
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.slam import Slam
from vggt_ros.synthetic import OracleNoise, Scene, SceneReconstructor, corridor, look_at, pinhole, room
from vggt_ros.windows.frame import Frame
from vggt_ros.windows.keyframe import Window
from vggt_ros.windows.solution import Solution

NOISE = OracleNoise(scale=0.5, rotation=0.002, translation=0.002, depth=0.02)
COVERED, UNCOVERED = 50, 30
"""Images of a trial at 10 Hz: 5 s covered, then 3 s of a place in the room."""
WRONG_POSE = 0.2
"""Position error of a wrong pose, meters; correct ones are within a few centimeters."""


class RefusesGaps(SceneReconstructor):
    """Refuses covered images and windows over places without overlap, as a real reconstructor must."""

    def reconstruct(self, window: Window) -> WindowGeometry:
        if not all(keyframe.stamp in self._poses for keyframe in window.keyframes):
            raise ReconstructionRefused("covered images")
        poses = [self._poses[keyframe.stamp] for keyframe in window.keyframes]
        for a, b in pairwise(poses):
            if np.linalg.norm(a[:3, 3] - b[:3, 3]) > 0.6 or rotation_angle(a[:3, :3].T @ b[:3, :3]) > 0.6:
                raise ReconstructionRefused("no matches")
        return super().reconstruct(window)


@dataclass
class Trial:
    """Images until the camera was found (None: not found), the largest error in meters, and the jump of odometry."""

    images: int | None
    error: float
    jump: float


def paths(seed: int, count: int) -> list[list[Array]]:
    """Return the path of each trial after the camera was covered: elsewhere on or near the lap, in either direction."""
    rng, position, found = np.random.default_rng(seed), len(lap().frames) - 1, []
    for _ in range(count):
        start = next(i for i in iter(lambda: int(rng.integers(5, 98)), None) if abs(i - position) > 30)
        step, position = int(rng.choice([-1, 1])), start
        offset = pose(so3_exp(rng.uniform(-0.1, 0.1, 3)), rng.uniform(-0.15, 0.15, 3))
        path = []
        for _ in range(UNCOVERED):
            step = step if 2 <= position + step < 102 else -step
            position += step
            path.append(lap().world_camera[position] @ offset)
        found.append(path)
    return found


def kidnap(seed: int, count: int, cover: str = "black") -> tuple[list[Trial], Slam]:
    """Map the lap, then cover the camera and uncover it elsewhere, repeatedly."""
    scene, intrinsics, rng = room(), pinhole(*SIZE), np.random.default_rng(seed)
    stamp, script = lap().frames[-1].stamp, []
    for path in paths(seed, count):
        for camera in [None] * COVERED + path:
            stamp += 100_000_000
            script.append((stamp, camera))
    truth = [(f.stamp, p) for f, p in zip(lap().frames, lap().world_camera, strict=True)]
    truth += [(stamp, camera) for stamp, camera in script if camera is not None]
    oracle = RefusesGaps(scene, [s for s, _ in truth], np.array([p for _, p in truth]), NOISE)
    slam = run(lap(), Config(), oracle, follows_map=False).slam
    world_map = trajectory_error(*slam.solution.trajectory(0), lap())[1]
    trials, odometry = [], slam.track(lap().frames[-1]).odom_camera
    for at, (stamp, camera) in enumerate(script):
        if at % (COVERED + UNCOVERED) == 0:
            trials.append(Trial(None, 0.0, 0.0))
        image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8) if cover == "black" else \
            np.clip(20 + 5 * rng.standard_normal((SIZE[1], SIZE[0], 1)), 0, 255).astype(np.uint8).repeat(3, 2)
        if camera is not None:
            image = scene.render(camera, intrinsics, SIZE)[0]
        tracked = slam.track(Frame(stamp, image, intrinsics))
        if tracked.window is not None:
            slam.step(tracked.window)
        if tracked.map_camera is None:
            continue
        assert camera is not None, "a pose although the camera is covered"
        if trials[-1].images is None:
            trials[-1].images = at % (COVERED + UNCOVERED) - COVERED + 1
            trials[-1].jump = float(np.linalg.norm(tracked.odom_camera[:3, 3] - odometry[:3, 3]))
        error = np.linalg.norm(world_map.apply(tracked.map_camera[:3, 3]) - camera[:3, 3])
        trials[-1].error, odometry = max(trials[-1].error, float(error)), tracked.odom_camera
    return trials, slam


def check_trials(trials: list[Trial], slam: Slam) -> None:
    assert sum(trial.images is not None for trial in trials) >= 0.9 * len(trials)
    assert all(trial.error < WRONG_POSE for trial in trials), "a wrong pose"
    assert all(trial.jump < 1e-6 for trial in trials), "the odometry continues from its last pose"
    assert slam.counts.submaps == 1, "the map is the same"


def test_a_camera_uncovered_elsewhere_is_relocalized_in_the_same_map():
    """Three trials; the slow test has ten."""
    trials, slam = kidnap(0, 3)
    assert all(trial.images is not None for trial in trials)
    check_trials(trials, slam)


@pytest.mark.slow
@pytest.mark.parametrize("cover", ["black", "noise"])
def test_ten_kidnapped_cameras(cover):
    """Prints the figures of docs/maps.md."""
    trials, slam = kidnap(1, 10, cover)
    for trial in trials:
        print(trial)
    print(slam.counts)
    check_trials(trials, slam)


def unmapped_view(trial: int, rng: np.random.Generator, scenes: list[Scene]) -> np.ndarray:
    """Return an image (H, W) of a place that is not in the map, but resembles places in it."""
    kind = trial % 5
    low, high = ((1, -0.5, 1), (25, 0.5, 1.5)) if kind == 0 else ((-1.0, -0.8, 1), (1.0, 0.8, 1.5))
    eye, heading = rng.uniform(low, high), rng.uniform(-np.pi, np.pi)
    camera = look_at(eye, eye + np.array([np.cos(heading), np.sin(heading), rng.uniform(-0.5, 0.1)]))
    if kind == 4:  # the mapped room, mirrored
        camera = lap().world_camera[int(rng.integers(0, len(lap().frames)))]
    gray = cv2.cvtColor(scenes[kind].render(camera, pinhole(*SIZE), SIZE)[0], cv2.COLOR_RGB2GRAY)
    return np.ascontiguousarray(gray[:, ::-1]) if kind == 4 else gray


def unmapped_scenes() -> list[Scene]:
    """Return a corridor, two rooms of the mapped one's materials, one with its table moved, and the mapped one."""
    mapped, other = room(), room(seed=2)
    table = [type(face)(face.corner + np.array([0.7, -0.5, 0.0]), face.right, face.down, face.texture)
             for face in mapped.faces[6:21]]
    return [corridor(), room(seed=1), other, Scene([*other.faces[:6], *table, *other.faces[21:]]), mapped]


def false_relocalizations(solution: Solution, count: int) -> list[int]:
    """Return the trials, of `count` cameras that are not in the map, in which a pose is found."""
    rng, scenes, intrinsics, wrong = np.random.default_rng(0), unmapped_scenes(), pinhole(*SIZE), []
    for trial in range(count):
        relocalizer, image = Relocalizer(TrackingConfig()), ImageFeatures(unmapped_view(trial, rng, scenes))
        if any(relocalizer.search(image, intrinsics, solution) is not None for _ in range(10)):
            wrong.append(trial)
    return wrong


@pytest.mark.slow
def test_a_camera_outside_the_map_is_never_relocalized():
    """50 images of places that resemble the mapped ones: ten each of five kinds, see `unmapped_scenes`."""
    slam = run(lap(), Config(), lap().oracle(noise=NOISE), follows_map=False).slam
    assert false_relocalizations(slam.solution, 50) == []


def test_a_camera_is_not_found_where_it_cannot_have_come():
    """Across the room in the next image: another place that looks alike. Later the camera may be there."""
    slam = run(lap(), Config(), lap().oracle(), follows_map=False).slam
    newest, elsewhere = lap().frames[-1], lap().frames[40]
    world_map = trajectory_error(*slam.solution.trajectory(0), lap())[1]
    for seconds, found in ((0.1, False), (20.0, True)):
        frame = Frame(newest.stamp + round(seconds * 1e9), elsewhere.image, elsewhere.intrinsics)
        tracked = slam.track(frame)
        assert (tracked.map_camera is not None) == found
    error = np.linalg.norm(world_map.apply_pose(tracked.map_camera)[:3, 3] - lap().world_camera[40][:3, 3])
    assert error < 0.05 and np.linalg.norm(lap().world_camera[-1][:3, 3] - lap().world_camera[40][:3, 3]) > 1.5
