"""Gravity and scale from an IMU, on rendered motion: what a perfect IMU would measure, with noise and biases."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from vggt_ros.geometry.poses import inverse, pose, so3_exp, so3_log
from vggt_ros.scale.imu_scale import GRAVITY
from vggt_ros.scale.imu_source import ImuSource
from vggt_ros.scale.preintegration import between, integrate
from vggt_ros.scale.ratios import agree
from vggt_ros.synthetic.imu import imu_samples
from vggt_ros.synthetic.paths import look_at
from vggt_ros.windows.solution import MapKeyframe, Solution

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
    kept = MapKeyframe(0, 0, np.eye(3), np.full(shape, 2.0 / unit, np.float16), np.full(shape, 255, np.uint8),
                        np.zeros((*shape, 3), np.uint8))
    return Solution(ids=np.arange(count), stamps=BEGIN + np.round(times * 1e9).astype(np.int64),
                    submaps=np.zeros(count, int), windows=np.zeros(count, int), map_camera=poses,
                    scale=np.ones(count), keyframes=dict.fromkeys(range(count), kept))


def source(seconds, **details):
    stamps, turn, felt = imu(seconds, **details)
    return fed(stamps, np.column_stack([turn, felt]))


def fed(stamps, samples):
    made = ImuSource()
    made.camera_imu = CAMERA_IMU
    for stamp, sample in zip(stamps.tolist(), samples, strict=True):
        made.add(stamp, sample[:3], sample[3:])
    return made


@cache
def drive(kind, seconds=20.4):
    """Poses (n, 4, 4) of a camera on a robot that looks ahead, at the IMU's rate."""
    t = np.arange(int(seconds * RATE)) / RATE
    speed = {"even": 1.0, "uneven": 1 + 0.6 * np.cos(2 * np.pi / 3 * t), "around": 0.7,
             "stops": np.interp(t % 4, [0, 1, 2, 3, 4], [0, 1, 1, 0, 0])}[kind]
    heading = 0.7 / 1.5 * t if kind == "around" else 0 * t
    step = (speed * np.array([np.cos(heading), np.sin(heading), 0 * t])).T / RATE
    place = np.cumsum(step, axis=0) + [0, 0, 1.2]
    if kind == "uneven":
        place[:, 1] = 0.3 * np.sin(place[:, 0] / 2)
    ahead = np.array([np.cos(heading), np.sin(heading), 0 * t - 0.05]).T
    return np.array([look_at(p, p + d) for p, d in zip(place, ahead, strict=True)])


def found_on(kind, seed, sigma=0.01, spoiled=lambda samples: None, unit=2.5):
    """What an IMU says on a drive, with keyframes every 0.7 s that are `sigma` meters and a millirad off."""
    rng, poses = np.random.default_rng(seed), drive(kind)
    stamps, samples = imu_samples(poses @ CAMERA_IMU, BEGIN + np.arange(len(poses)) * (10**9 // RATE), seed)
    spoiled(samples)
    rows = np.arange(RATE // 10, 20 * RATE + 1, round(0.7 * RATE))
    solution = mapped(20.0, 1.0, every=0.7)
    camera = inverse(poses[rows[0]]) @ poses[rows]
    camera[1:, :3, :3] = [pose @ so3_exp(0.001 * rng.standard_normal(3)) for pose in camera[1:, :3, :3]]
    camera[:, :3, 3] = (camera[:, :3, 3] + sigma * rng.standard_normal((len(rows), 3))) / unit
    count = len(rows)
    kept = replace(solution.keyframes[0], depth=np.full((12, 16), 2.5 / unit, np.float16))
    solution = Solution(ids=np.arange(count), stamps=BEGIN + rows * (10**9 // RATE), submaps=np.zeros(count, int),
                        windows=np.zeros(count, int), map_camera=camera, scale=np.ones(count),
                        keyframes=dict.fromkeys(range(count), kept))
    return agree(fed(stamps, samples).ratios(solution, np.arange(count)))


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
    assert found.log == pytest.approx(np.log(unit), abs=0.002)


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
    stamps, samples = imu_samples(
        np.array([way(t) @ CAMERA_IMU for t in times]), BEGIN + np.round(times * 1e9).astype(int)
    )
    made = fed(stamps, samples)
    solution = mapped(12.0, 2.5)
    assert agree(made.ratios(solution, np.arange(len(solution)))).log == pytest.approx(np.log(2.5), abs=0.02)


@pytest.mark.parametrize("unit", [0.1, 2.5, 30.0])
def test_errors_of_the_places_make_the_scale_of_a_drive_no_smaller_and_its_sigma_is_honest(unit):
    """Between 0.4 and 1.6 m/s; a centimeter is more than what least squares takes for small beside such a way."""
    seeds = range(20 if unit == 2.5 else 5)
    found = [found_on("uneven", seed, unit=unit) for seed in seeds]
    errors = np.array([one.log - np.log(unit) for one in found]) / [one.sigma for one in found]
    assert max(one.sigma for one in found) < 0.015
    assert abs(errors.mean()) < 3 / np.sqrt(len(seeds))
    assert (0.4 if unit == 2.5 else 0.1) < (errors**2).mean() < (2.0 if unit == 2.5 else 3.0)


def test_a_robot_that_stops_and_goes_on_tells_scale_to_two_percent():
    for seed in range(4):
        found = found_on("stops", seed)
        assert found.log == pytest.approx(np.log(2.5), abs=0.02)
        assert found.sigma < 0.015


@pytest.mark.parametrize("kind", ["even", "around"])
def test_what_could_be_a_bias_says_nothing(kind):
    """An even drive has no acceleration, and that of an even circle is always the same one in the robot's axes."""
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
def test_three_seconds_of_lies_change_little(spoiled):
    for seed in range(3):
        found = found_on("uneven", seed, spoiled=spoiled)
        assert abs(found.log - np.log(2.5)) < min(3 * found.sigma, 0.03)


def test_a_gap_in_the_samples_costs_the_keyframes_beside_it_only():
    stamps, turn, felt = imu(20.2)
    there = abs(stamps - BEGIN - 10 * 10**9) > 100_000_000
    made = fed(stamps[there], np.column_stack([turn, felt])[there])
    solution = mapped(20.0, 2.5, 0.005)
    ratios = made.ratios(solution, np.arange(len(solution)))
    beside = ratios.stamps[np.argsort(abs(ratios.stamps - BEGIN - 10 * 10**9))[:2]]
    assert abs(beside - BEGIN - 10 * 10**9).max() < 3 * 10**9
    assert agree(ratios).log == pytest.approx(np.log(2.5), abs=0.02)


def test_keyframes_that_are_let_go_change_nothing_of_what_others_say():
    """What was solved together stays together, and samples are not asked for again."""
    solution, made = mapped(35.0, 2.5, 0.005), source(35.2)
    before = made.ratios(solution, np.arange(len(solution)))
    made._samples.clear()
    rows = np.delete(np.arange(len(solution)), [3, 4])
    after = made.ratios(solution, rows)
    late = before.stamps > BEGIN + 10 * 10**9
    assert late.sum() > 30
    assert np.array_equal(before.log[late], after.log[after.stamps > BEGIN + 10 * 10**9])


def test_a_single_window_is_told_what_its_chunk_says():
    """How keyframes of a chunk lie against each other is the map's: it is not bent by what each of them adds."""
    solution, made = mapped(8.0, 2.5, 0.005), source(8.2)
    whole = made.ratios(solution, np.arange(len(solution)))
    inside = made.ratios(solution, np.arange(len(solution)), inside=True)
    assert np.ptp(inside.log) == 0 < np.ptp(whole.log)
    for ratios in (whole, inside):
        assert np.average(ratios.log, weights=ratios.sigma**-2) == pytest.approx(inside.log[0], abs=1e-4)


def test_a_step_is_corrected_for_another_bias_of_the_gyroscope():
    stamps, turn, felt = imu(3.0)
    chosen = between(stamps, np.column_stack([turn, felt]), BEGIN + 2_000_000_000, BEGIN + 2_702_000_000)
    assert len(chosen[0]) == 142
    bias = np.array([0.002, -0.001, 0.003])
    corrected, exact = integrate(*chosen, np.zeros(3)).without(bias), integrate(*chosen, bias)
    assert corrected.seconds == pytest.approx(0.702)
    assert np.allclose(corrected.turn, exact.turn, atol=1e-5)
    assert np.allclose(corrected.position, exact.position, atol=2e-5)
    assert np.allclose(corrected.velocity, exact.velocity, atol=5e-5)
