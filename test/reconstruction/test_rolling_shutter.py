"""Rolling-shutter correction, with images whose rows are rendered at their own times."""

from functools import cache

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vggt_ros.config import Config
from vggt_ros.features.tracks import FeatureTracks
from vggt_ros.geometry.poses import umeyama
from vggt_ros.reconstruction.adjustment.bundle import Scene
from vggt_ros.reconstruction.adjustment.lens import Lens
from vggt_ros.reconstruction.adjustment.rolling_shutter import ReadoutEstimator, shift_per_second, velocity_grid
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.reconstruction.multiview.reconstructor import Multiview
from vggt_ros.slam import Slam
from vggt_ros.synthetic import laps, pinhole, room
from vggt_ros.windows.frame import Frame
from vggt_ros.windows.keyframe import Corners, Keyframe

SIZE, PERIOD, STRIPS, FRAMES = (320, 240), 0.1, 8, 40


@cache
def images(readout: float):
    """Return images of a camera that moves around the room, and the pose of the middle row of each.

    It exposes strips of rows one after the other.
    """
    scene, intrinsics = room(), pinhole(*SIZE)
    fine = laps(FRAMES * 60 + 60, laps=0.5, radii=(1.2, 0.9))  # a pose every 1/60 of a period
    rows, found = SIZE[1] // STRIPS, []
    for frame in range(FRAMES):
        strips = []
        for strip in range(STRIPS):
            delay = ((strip + 0.5) / STRIPS - 0.5) * readout / PERIOD * 60
            moved = intrinsics.copy()
            moved[1, 2] -= strip * rows
            strips.append(scene.render(fine[round(frame * 60 + 30 + delay)], moved, (SIZE[0], rows))[0])
        found.append((np.concatenate(strips), fine[frame * 60 + 30]))
    return found


def run(readout: float, setting: float, count: int = FRAMES):
    """Return the readout time estimated by `multiview` from `count` images, and the error in percent of the path."""
    config = Config().replace({"multiview.readout": setting, "keyframes.min_parallax": 20.0, "loops.enabled": False})
    reconstructor = Multiview(config)
    slam, truth = Slam(config, reconstructor), {}
    for i, (image, pose) in enumerate(images(readout)[:count]):
        stamp = int(1e9 + i * PERIOD * 1e9)
        truth[stamp] = pose[:3, 3]
        window = slam.track(Frame(stamp, image, pinhole(*SIZE))).window
        if window:
            slam.step(window)
    stamps, poses = slam.solution.trajectory(0)
    target = np.array([truth[int(s)] for s in stamps])
    error = np.linalg.norm(umeyama(poses[:, :3, 3], target).apply(poses[:, :3, 3]) - target, axis=1)
    path = np.linalg.norm(np.diff(target, axis=0), axis=1).sum()
    return reconstructor.readout, 100 * float(np.sqrt(np.mean(error**2))) / path


def test_readout_is_estimated_and_improves_the_trajectory():
    """A readout time of 60 ms is estimated to 40 %; the trajectory is better than without correction.

    The camera moves steadily, so that part of the skew is the same in all images, and is taken for the room's.
    """
    found, corrected = run(0.06, -1.0)
    assert found == pytest.approx(0.06, rel=0.4)
    assert corrected < 0.7 * run(0.06, 0.0)[1]


def test_a_global_shutter_is_not_corrected():
    """The estimated readout time is 0."""
    assert run(0.0, -1.0, 24)[0] == 0.0


@pytest.mark.parametrize("readout", [0.06, 0.0])
def test_distortion_that_was_found_with_another_readout_time_is_forgotten(readout: float):
    """Rows that are shifted look like distortion; the window is solved as the first one, and again after such ones."""
    config = Config().replace({"keyframes.min_parallax": 20.0})
    reconstructor = Multiview(config)
    slam = Slam(config, reconstructor)
    window = next(window for i, (image, _) in enumerate(images(readout))
                  if (window := slam.track(Frame(int(1e9 + i * PERIOD * 1e9), image, pinhole(*SIZE))).window))
    reconstructor.reconstruct(window)
    _, _, calibration, check, _, refused = reconstructor.carried
    state = ReadoutEstimator(-1.0).state
    reconstructor.carried = None, Lens(1.0, 0.009, 0.0, 0.003), calibration, check, state, refused
    reconstructor.reconstruct(window)
    assert (reconstructor.readout > 0) == (readout > 0)
    assert (reconstructor.carried[1].radial < 0.005) == (readout > 0)


@pytest.mark.parametrize("readout", [0.0, 0.02, 0.04, 0.06, 0.09, -0.03])
def test_the_first_estimate_is_found_from_far_away(readout: float):
    """At a readout time of 0 most residuals are saturated, and the cost around it has no minimum.

    An image that was turned upside down has the rows of the bottom first.
    """
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-2, 2, (200, 2)), rng.uniform(3, 6, 200)])
    translation = np.column_stack([-np.linspace(0, 1, 6), np.zeros(6), 0.1 * np.sin(np.arange(6))])
    scene = Scene(np.repeat(np.eye(3)[None], 6, 0), translation, points, np.full((6, 2), 300.0))
    exact = scene.residuals(np.zeros((200, 6, 2)))
    shift_rate = exact[..., 1:] / 240 * rng.normal(0, 150.0, (6, 2))
    observations = exact + readout * shift_rate + rng.normal(0, 0.4, exact.shape)
    seen, estimator = np.ones((200, 6), bool), ReadoutEstimator(-1.0)
    for _ in range(3):
        estimator.update(SparseReconstruction(scene, seen[0], seen, observations, (0, 5)), seen, shift_rate)
    assert estimator.seconds == pytest.approx(readout, abs=0.007)


def test_a_camera_that_is_turned_back_and_forth():
    """Once a second, with ten images a second: the velocity is another one in each image than before it."""
    readout, period, count = 0.02, 0.1, 300
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-2.5, 2.5, (count, 2)), rng.uniform(3, 6, count)])

    def pose(time):
        angle = np.stack([0.3 * np.sin(2 * np.pi * time), 0.4 * np.sin(2.3 * np.pi * time + 1), 0 * time], -1)
        return Rotation.from_rotvec(angle), np.stack([0.3 * time, 0 * time, 0 * time], -1)

    def image(time):
        """Return the pixels (n, 2) of the points, each at its own time (n,)."""
        rotation, center = pose(time)
        seen = rotation.apply(points - center)
        return 300 * seen[:, :2] / seen[:, 2:] + [160, 120]

    estimator, tracks = ReadoutEstimator(-1.0), FeatureTracks(count)
    for window in range(3):
        times = period * (3 + 6 * window + np.arange(6))
        rotation, center = pose(times)
        scene = Scene(rotation.as_matrix(), -rotation.apply(center), points, np.full((6, 2), 300.0))
        seen, shifts, observed = np.ones((count, 6), bool), [], []
        for time in times:
            rows = image(np.full(count, time))[:, 1] / 240 - 0.5
            four = np.stack([image(time + offset * period + readout * rows) for offset in (1, 0, -1)], 1)
            tracks.ids, tracks.pixels = np.arange(count), four[:, 0].astype(np.float32)
            tracks.motions, tracks._seconds = -np.diff(four, axis=1).astype(np.float32), np.full(2, period, np.float32)
            keyframe = Keyframe(0, 0, np.zeros((240, 320, 3), np.uint8), np.eye(3), True, tracks.corners_before())
            shifts.append(shift_per_second(four[:, 1:2], [velocity_grid(keyframe)], (320, 240))[:, 0])
            observed.append(four[:, 1] - [160, 120] + rng.normal(0, 0.3, (count, 2)))
        solution = SparseReconstruction(scene, seen[0], seen, np.stack(observed, 1), (0, 5))
        estimator.update(solution, seen, np.stack(shifts, 1))
    assert estimator.seconds == pytest.approx(readout, rel=0.15)


def test_shift_is_velocity_times_row_height():
    """Rows above the middle are exposed earlier, rows below it later; without velocities there is no shift."""
    pixels = np.column_stack([np.linspace(5, 300, 40), np.linspace(5, 230, 40)]).astype(np.float32)
    velocity = np.tile(np.array([100, -50], np.float32), (40, 1))
    velocity[::4] = np.nan  # new features have no velocity
    corners = Corners(np.arange(40), pixels, velocity)
    moving = Keyframe(0, 0, np.zeros((240, 320, 3), np.uint8), np.eye(3), True, corners)
    still = Keyframe(1, 1, moving.image, np.eye(3))
    tracks = np.array([[[10.0, 0.0], [1, 1]], [[10.0, 120.0], [1, 1]], [[10.0, 240.0], [np.nan, np.nan]]])
    shift_rate = shift_per_second(tracks, [velocity_grid(moving), velocity_grid(still)], (320, 240))
    assert np.allclose(shift_rate[:, 0], [[-50, 25], [0, 0], [50, -25]])
    assert not shift_rate[:, 1].any()


def test_velocities_are_those_of_the_image():
    """An image that moves by (3, -2) px in 0.1 s; new features have no velocity, nor has a repeated stamp."""
    rng = np.random.default_rng(0)
    big = np.kron(rng.integers(0, 255, (40, 50)), np.ones((8, 8))).astype(np.uint8)
    tracks = FeatureTracks(100)
    tracks.advance(np.ascontiguousarray(big[20:260, 20:340]), stamp=10**9)
    tracks.replenish()
    assert np.isnan(tracks.corners().velocity).all()
    tracks.advance(np.ascontiguousarray(big[22:262, 17:337]), stamp=11 * 10**8)
    tracks.replenish()
    assert np.allclose(np.nanmedian(tracks.corners().velocity, axis=0), [30, -20], atol=1)
    tracks.advance(np.ascontiguousarray(big[22:262, 17:337]), stamp=11 * 10**8)
    assert np.isnan(tracks.corners().velocity).all()


def test_a_roll_is_known_where_there_are_no_features():
    """All are in the left third of the image, and a few are wrong; without a trend the right has their motion."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform((0, 0), (107, 240), (60, 2))
    velocity = 2.0 * (pixels - [160, 120]) @ [[0, 1], [-1, 0]] + rng.normal(0, 2, (60, 2))
    velocity[:6] += 300
    corners = Corners(np.arange(60), pixels.astype(np.float32), velocity.astype(np.float32))
    grid = velocity_grid(Keyframe(0, 0, np.zeros((240, 320, 3), np.uint8), np.eye(3), True, corners))
    x, y = np.meshgrid((np.arange(24) + 0.5) * 320 / 24, (np.arange(18) + 0.5) * 240 / 18)
    true = 2.0 * np.stack([-(y - 120), x - 160], -1)
    assert np.linalg.norm(grid - true, axis=-1).max() < 100
    assert np.median(np.linalg.norm(grid - true, axis=-1)[:, 16:]) < 80


@pytest.mark.parametrize("seconds", [(0.1, 0.1), (0.05, 0.1)])
def test_the_velocity_in_the_image_before_is_exact_under_acceleration(seconds):
    """For equal and unequal intervals; a feature that was new in it has the change of the others."""
    speed = np.array([[100.0, -50], [101, -51], [99, -49]])[:, None]
    times = np.array([seconds[0], 0.0, -seconds[1]])[None, :, None]
    pixels = 500 + speed * times + np.array([300.0, -700]) * times**2
    tracks = FeatureTracks(3)
    tracks.ids, tracks.pixels = np.arange(3), pixels[:, 0].astype(np.float32)
    tracks.motions, tracks._seconds = -np.diff(pixels, axis=1).astype(np.float32), np.array(seconds, np.float32)
    tracks.motions[1, 1] = np.nan
    before = tracks.corners_before()
    np.testing.assert_allclose(before.velocity, speed[:, 0], atol=0.01)
    np.testing.assert_allclose(before.pixels, pixels[:, 1], atol=0.01)
    assert np.abs(tracks.corners().velocity - speed[:, 0]).max() > 10
