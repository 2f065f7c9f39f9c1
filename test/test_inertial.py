"""Gravity and scale from an IMU, on rendered motion: what a perfect IMU would measure, with noise and biases."""

import numpy as np
import pytest

from vggt_ros.geometry import inverse, pose, so3_exp, so3_log
from vggt_ros.inertial import GRAVITY, ImuSource
from vggt_ros.ratios import agree
from vggt_ros.solution import KeptKeyframe, Solution
from vggt_ros.synthetic.imu import felt_on
from vggt_ros.synthetic.paths import look_at

RATE = 200
CAMERA_IMU = pose(so3_exp(np.array([0.2, -1.2, 0.5])), np.array([0.05, -0.02, 0.1]))
BEGIN = 1_700_000_000_000_000_000


def way(t, rest=1.0, period=8.0):
    """Pose of the camera at time t: still at first, then around the room, up and down."""
    s = max(t - rest, 0.0)
    a = 2 * np.pi / period * s * (1 - np.exp(-s**2))
    place = np.array([1.5 * np.cos(a), 1.1 * np.sin(a), 1.1 + 0.12 * np.sin(3 * a)])
    return look_at(place, np.array([-0.5 * np.cos(a), -0.5 * np.sin(a), 0.8 + 0.15 * np.sin(2 * a)]))


def imu(seconds, noise=1.0, seed=0):
    """Stamps, turn rates and accelerations: derivatives of the way, gravity, biases and noise."""
    rng = np.random.default_rng(seed)
    step, world_imu = 1e-3, []
    times = np.arange(int(seconds * RATE)) / RATE
    world_imu = np.array([[way(t + d) @ CAMERA_IMU for d in (-step, 0.0, step)] for t in times])
    acceleration = (world_imu[:, 2, :3, 3] - 2 * world_imu[:, 1, :3, 3] + world_imu[:, 0, :3, 3]) / step**2
    rotation = world_imu[:, 1, :3, :3]
    felt = np.einsum("nji,nj->ni", rotation, acceleration + [0, 0, GRAVITY])
    turn = np.array([so3_log(w[0, :3, :3].T @ w[2, :3, :3]) / (2 * step) for w in world_imu])
    turn += noise * (np.array([0.01, -0.02, 0.015]) + 0.002 * np.sqrt(RATE) * rng.standard_normal(turn.shape) / 10)
    felt += noise * (np.array([0.05, -0.03, 0.04]) + 0.02 * np.sqrt(RATE) * rng.standard_normal(felt.shape) / 10)
    return BEGIN + np.round(times * 1e9).astype(np.int64), turn, felt


def mapped(seconds, unit, sigma=0.0, seed=0, every=0.3):
    """The true keyframes in a map whose unit is `unit` meters, in the first camera's frame, `sigma` meters off."""
    rng = np.random.default_rng(seed)
    times = np.arange(0.2, seconds, every)
    poses = np.array([inverse(way(0.0)) @ way(t) for t in times])
    poses[:, :3, 3] = (poses[:, :3, 3] + sigma * rng.standard_normal((len(times), 3))) / unit
    count, shape = len(times), (12, 16)
    kept = KeptKeyframe(0, 0, np.eye(3), np.full(shape, 2.0 / unit, np.float16), np.full(shape, 255, np.uint8),
                        np.zeros((*shape, 3), np.uint8))
    return Solution(ids=np.arange(count), stamps=BEGIN + np.round(times * 1e9).astype(np.int64),
                    submaps=np.zeros(count, int), windows=np.zeros(count, int), map_camera=poses,
                    scale=np.ones(count), kept=dict.fromkeys(range(count), kept))


def source(seconds, **details):
    made = ImuSource()
    made.camera_imu = CAMERA_IMU
    for stamp, turn, felt in zip(*imu(seconds, **details), strict=True):
        made.add(int(stamp), turn, felt)
    return made


def test_up_is_found_within_a_degree_while_the_robot_stands_still():
    made = source(4.0)
    up = made.up(BEGIN + 700_000_000)
    true = way(0.0)[:3, :3].T @ np.array([0, 0, 1.0])
    assert np.degrees(np.arccos(up @ true)) < 1.0
    assert made.up(BEGIN + 3_000_000_000) is None, "it moves"
    assert made.up(BEGIN) is None, "nothing came yet"


@pytest.mark.parametrize("unit", [0.4, 1.0, 3.0])
def test_a_perfect_imu_gives_the_scale(unit):
    solution = mapped(10.0, unit)
    ratios = source(10.2, noise=0.0).ratios(solution, np.arange(len(solution)))
    found = agree(ratios)
    assert found.log == pytest.approx(np.log(unit), abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_scale_is_good_to_two_percent_after_twenty_seconds_with_noise_and_biases(seed):
    """A small accelerometer's noise and biases, keyframes 5 mm off."""
    solution = mapped(20.0, 2.5, 0.005, seed)
    found = agree(source(20.2, seed=seed).ratios(solution, np.arange(len(solution))))
    assert found.log == pytest.approx(np.log(2.5), abs=0.02)
    assert abs(found.log - np.log(2.5)) < 3.5 * found.sigma
    assert found.seconds >= 10


def test_a_motion_without_acceleration_says_nothing():
    solution = mapped(0.9, 1.0, every=0.05)
    assert len(source(1.0).ratios(solution, np.arange(len(solution)))) == 0


def test_what_is_felt_on_a_path_that_is_known_gives_its_scale():
    """Differences of its poses are what an exact derivative is: the benchmark's IMU is one."""
    times = np.arange(0, 12.2, 1 / 300)
    stamps, samples = felt_on(np.array([way(t) @ CAMERA_IMU for t in times]), BEGIN + np.round(times * 1e9).astype(int))
    made = ImuSource()
    made.camera_imu = CAMERA_IMU
    for stamp, sample in zip(stamps.tolist(), samples, strict=True):
        made.add(stamp, sample[:3], sample[3:])
    solution = mapped(12.0, 2.5)
    assert agree(made.ratios(solution, np.arange(len(solution)))).log == pytest.approx(np.log(2.5), abs=0.02)
