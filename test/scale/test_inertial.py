"""Gravity and scale from an IMU, on rendered motion: what a perfect IMU would measure, with noise and biases."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from vggt_ros.geometry.poses import inverse, pose, so3_exp, so3_log
from vggt_ros.scale.imu_scale import GRAVITY
from vggt_ros.scale.imu_source import ImuSource
from vggt_ros.scale.preintegration import preintegrate, samples_between
from vggt_ros.scale.ratios import estimate_scale
from vggt_ros.synthetic.imu import imu_samples
from vggt_ros.synthetic.paths import look_at
from vggt_ros.windows.solution import MapKeyframe, Solution

RATE = 200
CAMERA_IMU = pose(so3_exp(np.array([0.2, -1.2, 0.5])), np.array([0.05, -0.02, 0.1]))
BEGIN = 1_700_000_000_000_000_000


def trajectory(t, rest=1.0, period=8.0):
    """Pose of the camera at time t: still at first, then around the room, up and down."""
    s = max(t - rest, 0.0)
    a = 2 * np.pi / period * s * (1 - np.exp(-s**2))
    position = np.array([1.5 * np.cos(a), 1.1 * np.sin(a), 1.1 + 0.12 * np.sin(3 * a)])
    return look_at(position, np.array([-0.5 * np.cos(a), -0.5 * np.sin(a), 0.8 + 0.15 * np.sin(2 * a)]))


def imu(seconds, noise=1.0, seed=0):
    """Stamps, turn rates and accelerations: derivatives of the trajectory, gravity, biases and noise."""
    rng = np.random.default_rng(seed)
    step, world_imu = 1e-3, []
    times = np.arange(int(seconds * RATE)) / RATE
    world_imu = np.array([[trajectory(t + d) @ CAMERA_IMU for d in (-step, 0.0, step)] for t in times])
    motion = (world_imu[:, 2, :3, 3] - 2 * world_imu[:, 1, :3, 3] + world_imu[:, 0, :3, 3]) / step**2
    rotation = world_imu[:, 1, :3, :3]
    acceleration = np.einsum("nji,nj->ni", rotation, motion + [0, 0, GRAVITY])
    turn = np.array([so3_log(w[0, :3, :3].T @ w[2, :3, :3]) / (2 * step) for w in world_imu])
    turn += noise * (np.array([0.01, -0.02, 0.015]) + 0.002 * np.sqrt(RATE) * rng.standard_normal(turn.shape) / 10)
    acceleration += noise * (np.array([0.05, -0.03, 0.04])
                             + 0.02 * np.sqrt(RATE) * rng.standard_normal(acceleration.shape) / 10)
    return BEGIN + np.round(times * 1e9).astype(np.int64), turn, acceleration


def mapped(seconds, unit, sigma=0.0, seed=0, every=0.3):
    """The true keyframes in a map whose unit is `unit` meters, in the first camera's frame, `sigma` meters off."""
    rng = np.random.default_rng(seed)
    times = np.arange(0.2, seconds, every)
    poses = np.array([inverse(trajectory(0.0)) @ trajectory(t) for t in times])
    poses[:, :3, 3] = (poses[:, :3, 3] + sigma * rng.standard_normal((len(times), 3))) / unit
    count, shape = len(times), (12, 16)
    keyframe = MapKeyframe(0, 0, np.eye(3), np.full(shape, 2.0 / unit, np.float16), np.full(shape, 255, np.uint8),
                           np.zeros((*shape, 3), np.uint8))
    return Solution(ids=np.arange(count), stamps=BEGIN + np.round(times * 1e9).astype(np.int64),
                    submaps=np.zeros(count, int), windows=np.zeros(count, int), map_camera=poses,
                    scale=np.ones(count), keyframes=dict.fromkeys(range(count), keyframe))


def source(seconds, **details):
    stamps, turn, acceleration = imu(seconds, **details)
    return source_of(stamps, np.column_stack([turn, acceleration]))


def source_of(stamps, samples):
    imu = ImuSource()
    imu.camera_imu = CAMERA_IMU
    for stamp, sample in zip(stamps.tolist(), samples, strict=True):
        imu.add(stamp, sample[:3], sample[3:])
    return imu


@cache
def drive(kind, seconds=20.4):
    """Poses (n, 4, 4) of a camera on a robot that looks ahead, at the IMU's rate."""
    t = np.arange(int(seconds * RATE)) / RATE
    speed = {"even": 1.0, "uneven": 1 + 0.6 * np.cos(2 * np.pi / 3 * t), "around": 0.7,
             "stops": np.interp(t % 4, [0, 1, 2, 3, 4], [0, 1, 1, 0, 0])}[kind]
    heading = 0.7 / 1.5 * t if kind == "around" else 0 * t
    step = (speed * np.array([np.cos(heading), np.sin(heading), 0 * t])).T / RATE
    position = np.cumsum(step, axis=0) + [0, 0, 1.2]
    if kind == "uneven":
        position[:, 1] = 0.3 * np.sin(position[:, 0] / 2)
    ahead = np.array([np.cos(heading), np.sin(heading), 0 * t - 0.05]).T
    return np.array([look_at(p, p + d) for p, d in zip(position, ahead, strict=True)])


def found_on(kind, seed, sigma=0.01, spoiled=lambda samples: None, unit=2.5):
    """Scale by an IMU on a drive, with keyframes every 0.7 s that are `sigma` meters and a millirad off."""
    rng, poses = np.random.default_rng(seed), drive(kind)
    stamps, samples = imu_samples(poses @ CAMERA_IMU, BEGIN + np.arange(len(poses)) * (10**9 // RATE), seed)
    spoiled(samples)
    rows = np.arange(RATE // 10, 20 * RATE + 1, round(0.7 * RATE))
    solution = mapped(20.0, 1.0, every=0.7)
    camera = inverse(poses[rows[0]]) @ poses[rows]
    camera[1:, :3, :3] = [pose @ so3_exp(0.001 * rng.standard_normal(3)) for pose in camera[1:, :3, :3]]
    camera[:, :3, 3] = (camera[:, :3, 3] + sigma * rng.standard_normal((len(rows), 3))) / unit
    count = len(rows)
    keyframe = replace(solution.keyframes[0], depth=np.full((12, 16), 2.5 / unit, np.float16))
    solution = Solution(ids=np.arange(count), stamps=BEGIN + rows * (10**9 // RATE), submaps=np.zeros(count, int),
                        windows=np.zeros(count, int), map_camera=camera, scale=np.ones(count),
                        keyframes=dict.fromkeys(range(count), keyframe))
    return estimate_scale(source_of(stamps, samples).ratios(solution, np.arange(count)))


def test_up_is_found_within_a_degree_while_the_robot_stands_still():
    imu = source(4.0)
    up = imu.up_direction(BEGIN + 700_000_000)
    true = trajectory(0.0)[:3, :3].T @ np.array([0, 0, 1.0])
    assert np.degrees(np.arccos(up @ true)) < 1.0
    assert imu.up_direction(BEGIN + 3_000_000_000) is None, "it moves"
    assert imu.up_direction(BEGIN) is None, "nothing came yet"


@pytest.mark.parametrize("unit", [0.4, 1.0, 3.0])
def test_a_perfect_imu_gives_the_scale(unit):
    solution = mapped(10.0, unit)
    ratios = source(10.2, noise=0.0).ratios(solution, np.arange(len(solution)))
    found = estimate_scale(ratios)
    assert found.log == pytest.approx(np.log(unit), abs=0.002)


@pytest.mark.parametrize("seed", range(3))
def test_scale_is_good_to_two_percent_after_twenty_seconds_with_noise_and_biases(seed):
    """A small accelerometer's noise and biases, keyframes 5 mm off."""
    solution = mapped(20.0, 2.5, 0.005, seed)
    found = estimate_scale(source(20.2, seed=seed).ratios(solution, np.arange(len(solution))))
    assert found.log == pytest.approx(np.log(2.5), abs=0.02)
    assert abs(found.log - np.log(2.5)) < 3.5 * found.sigma
    assert found.seconds >= 10


def test_motion_without_acceleration_gives_no_ratios():
    solution = mapped(0.9, 1.0, every=0.05)
    assert len(source(1.0).ratios(solution, np.arange(len(solution)))) == 0


def test_simulated_imu_samples_on_a_known_path_give_its_scale():
    """Finite differences of its poses, as in the benchmark's IMU, are as good as exact derivatives."""
    times = np.arange(0, 12.2, 1 / 300)
    stamps, samples = imu_samples(np.array([trajectory(t) @ CAMERA_IMU for t in times]),
                                  BEGIN + np.round(times * 1e9).astype(int))
    imu = source_of(stamps, samples)
    solution = mapped(12.0, 2.5)
    assert estimate_scale(imu.ratios(solution, np.arange(len(solution)))).log == pytest.approx(np.log(2.5), abs=0.02)


@pytest.mark.parametrize("unit", [0.1, 2.5, 30.0])
def test_errors_of_the_map_do_not_bias_the_scale_of_a_drive_and_sigma_is_consistent(unit):
    """Between 0.4 and 1.6 m/s; errors of a centimeter are enough to bias least squares on such a trajectory."""
    seeds = range(20 if unit == 2.5 else 5)
    found = [found_on("uneven", seed, unit=unit) for seed in seeds]
    errors = np.array([one.log - np.log(unit) for one in found]) / [one.sigma for one in found]
    assert max(one.sigma for one in found) < 0.015
    assert abs(errors.mean()) < 3 / np.sqrt(len(seeds))
    assert (0.4 if unit == 2.5 else 0.1) < (errors**2).mean() < (2.0 if unit == 2.5 else 3.0)


def test_a_robot_that_stops_and_goes_has_its_scale_to_two_percent():
    for seed in range(4):
        found = found_on("stops", seed)
        assert found.log == pytest.approx(np.log(2.5), abs=0.02)
        assert found.sigma < 0.015


@pytest.mark.parametrize("kind", ["even", "around"])
def test_acceleration_that_could_be_a_bias_gives_no_scale(kind):
    """An even drive has no acceleration, and that of an even circle is constant in the robot's axes."""
    for seed in range(3):
        found = found_on(kind, seed)
        assert found is None or found.sigma > 0.1


def shaken(samples):
    samples[4 * RATE:7 * RATE] += np.random.default_rng(1).standard_normal((3 * RATE, 6)) * np.repeat([0.5, 3.0], 3)


def saturated(samples):
    samples[4 * RATE:7 * RATE, 3:] = np.clip(samples[4 * RATE:7 * RATE, 3:], -5, 5)


def halved(samples):
    samples[4 * RATE:7 * RATE, 3:] /= 2


@pytest.mark.parametrize("spoiled", [shaken, saturated, halved])
def test_three_seconds_of_bad_samples_change_little(spoiled):
    for seed in range(3):
        found = found_on("uneven", seed, spoiled=spoiled)
        assert abs(found.log - np.log(2.5)) < min(3 * found.sigma, 0.03)


def test_a_gap_in_the_samples_costs_the_keyframes_beside_it_only():
    stamps, turn, acceleration = imu(20.2)
    there = abs(stamps - BEGIN - 10 * 10**9) > 100_000_000
    made = source_of(stamps[there], np.column_stack([turn, acceleration])[there])
    solution = mapped(20.0, 2.5, 0.005)
    ratios = made.ratios(solution, np.arange(len(solution)))
    beside = ratios.stamps[np.argsort(abs(ratios.stamps - BEGIN - 10 * 10**9))[:2]]
    assert abs(beside - BEGIN - 10 * 10**9).max() < 3 * 10**9
    assert estimate_scale(ratios).log == pytest.approx(np.log(2.5), abs=0.02)


def test_removed_keyframes_do_not_change_the_ratios_of_others():
    """Chunks keep their keyframes, and samples are not needed again."""
    solution, imu = mapped(35.0, 2.5, 0.005), source(35.2)
    before = imu.ratios(solution, np.arange(len(solution)))
    imu._samples.clear()
    rows = np.delete(np.arange(len(solution)), [3, 4])
    after = imu.ratios(solution, rows)
    late = before.stamps > BEGIN + 10 * 10**9
    assert late.sum() > 30
    assert np.array_equal(before.log[late], after.log[after.stamps > BEGIN + 10 * 10**9])


def test_the_ratio_of_a_single_window_is_that_of_its_chunk():
    """Relative scale inside a chunk is the map's: it is not deformed by the increments of its keyframes."""
    solution, imu = mapped(8.0, 2.5, 0.005), source(8.2)
    whole = imu.ratios(solution, np.arange(len(solution)))
    per_window = imu.ratios(solution, np.arange(len(solution)), per_window=True)
    assert np.ptp(per_window.log) == 0 < np.ptp(whole.log)
    for ratios in (whole, per_window):
        assert np.average(ratios.log, weights=ratios.sigma**-2) == pytest.approx(per_window.log[0], abs=1e-4)


def test_preintegrated_motion_is_corrected_for_another_gyroscope_bias():
    stamps, turn, acceleration = imu(3.0)
    chosen = samples_between(stamps, np.column_stack([turn, acceleration]), BEGIN + 2_000_000_000,
                             BEGIN + 2_702_000_000)
    assert len(chosen[0]) == 142
    bias = np.array([0.002, -0.001, 0.003])
    corrected, exact = preintegrate(*chosen, np.zeros(3)).with_gyroscope_bias(bias), preintegrate(*chosen, bias)
    assert corrected.seconds == pytest.approx(0.702)
    assert np.allclose(corrected.rotation, exact.rotation, atol=1e-5)
    assert np.allclose(corrected.position, exact.position, atol=2e-5)
    assert np.allclose(corrected.velocity, exact.velocity, atol=5e-5)


def test_turn_rates_in_degrees_give_no_scale_and_no_error():
    """Known fault: every window failed with `Matrix is not positive definite`."""
    source, solution = ImuSource(), mapped(12, 2.0)
    source.camera_imu = CAMERA_IMU
    for stamp, turn, acceleration in zip(*imu(12), strict=True):
        source.add(int(stamp), np.degrees(turn), acceleration)
    assert len(source.ratios(solution, np.arange(len(solution.ids)))) == 0
