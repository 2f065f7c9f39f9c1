"""Each source of metric scale against its own truth, also when it is wrong for some seconds."""

from functools import cache

import cv2
import numpy as np
import pytest
from data_folder import recorded
from drives import POSES, SMALL, STAMPS, VIEW, meters, odometry, oracle, solve
from scenes import SIZE

from vggt_ros.geometry.camera import Camera, Rectifier, resize_intrinsics
from vggt_ros.geometry.poses import inverse, pose, robust_sigma, so3_exp
from vggt_ros.scale.depth_source import depth_ratio, rectified_depth
from vggt_ros.scale.ground_plane import ground_distance
from vggt_ros.scale.odometry_source import OdometrySource, interpolate
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.synthetic import SceneReconstructor, room
from vggt_ros.synthetic.odometry import OdometryNoise, drifting_odometry
from vggt_ros.windows.solution import OBSERVED, UNKNOWN, MapKeyframe, Solution


@cache
def depth_at(index):
    return oracle().scene.depth(POSES[index], VIEW, SIZE)


def kept(depth, intrinsics=VIEW):
    height, width = depth.shape
    return MapKeyframe(0, 0, intrinsics, depth.astype(np.float16), np.full(depth.shape, 200, np.uint8),
                       np.zeros((height, width, 3), np.uint8))


# Odometry.


@pytest.mark.parametrize("seed", range(3))
def test_a_drifting_odometry_that_slips_is_good_to_two_percent_after_ten_meters(seed):
    """1 % and 0.1 degrees of noise a step, stamps 10 ms late, and three seconds at twice the speed."""
    stamps, poses = drifting_odometry(STAMPS, POSES, OdometryNoise(slip_begin=[0, 6, 15][seed]), seed)
    slam, _ = solve(lambda slam, index, _: slam.odometry.add(int(stamps[index]), poses[index]))
    assert slam.solution.metric.state == OBSERVED
    error = abs(meters(slam) - 1)
    assert error < 0.02
    assert error < 3.5 * slam.solution.metric.sigma


def test_a_robot_that_stands_still_gives_no_ratios():
    """Nothing moves in map or odometry: the noise of the map must not be taken for a path."""
    rng = np.random.default_rng(0)
    source, count = OdometrySource(), 20
    stamps = np.arange(count) * 3 * 10**8
    for stamp in stamps.tolist():
        source.add(stamp, np.eye(4))
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, 3] = 0.002 * rng.standard_normal((count, 3))
    same = kept(np.full((12, 16), 2.0))
    solution = Solution(ids=np.arange(count), stamps=stamps, submaps=np.zeros(count, int),
                        windows=np.zeros(count, int), map_camera=poses, scale=np.ones(count),
                        keyframes=dict.fromkeys(range(count), same))
    assert len(source.ratios(solution, np.arange(count))) == 0
    poses[:, 0, 3] += 0.3 * np.arange(count)
    assert len(source.ratios(solution, np.arange(count))) == 0, \
        "known fault: a frozen odometry gave 1e-11 m per map unit, after 50 s with a sigma of 1.5 %"
    source.clear()
    for stamp, step in zip(stamps.tolist(), np.minimum(np.arange(count), 13), strict=True):
        source.add(stamp, pose(np.eye(3), np.array([0.3 * step, 0.0, 0.0])))
    ratios = source.ratios(solution, np.arange(count))  # where it stands still only later, that counts as an outlier
    assert (np.abs(ratios.log) < 0.1).sum() >= 5 and (np.abs(ratios.log) > 1).sum() >= 2


def test_positions_are_interpolated_linearly_and_unknown_outside():
    stamps, positions = np.array([10**9, 10**9 + 2 * 10**8, 2 * 10**9]), np.array([[1.0, 2, 3], [1.4, 2, 1], [0, 0, 0]])
    found = interpolate(stamps, positions, stamps[0] + np.array([0, 5 * 10**7, 2 * 10**8, 10**9]))
    np.testing.assert_allclose(found, [[1, 2, 3], [1.1, 2, 2.5], [1.4, 2, 1], [0, 0, 0]], atol=1e-12)
    outside = interpolate(stamps, positions, np.array([10**9 - 1, 2 * 10**9 + 1, 15 * 10**8]))
    assert np.isnan(outside).all(), "before, after, and where two are too far apart"


def test_an_odometry_whose_stamps_start_over_forgets_the_earlier_ones():
    source = OdometrySource()
    for stamp in (10, 20, 30):
        source.add(stamp * 10**8, np.eye(4))
    source.add(5 * 10**8, np.eye(4))
    assert [stamp for stamp, _ in source._buffer] == [5 * 10**8]


# Depth.


def depth_feed(begin, end, factor):
    def feed(slam, index, stamp):
        if index % 3 == 0:
            slam.depth.add(stamp, depth_at(index) * np.float32(factor if begin <= index < end else 1.0))
    return feed


@pytest.mark.parametrize(("begin", "end", "factor"), [(0, 0, 1.0), (90, 120, 1.5), (0, 30, 0.5)])
def test_depth_is_good_to_half_a_percent_also_when_it_is_wrong_for_three_seconds(begin, end, factor):
    slam, _ = solve(depth_feed(begin, end, factor))
    assert slam.solution.metric.state == OBSERVED and slam.solution.metric.source == "depth"
    assert meters(slam) == pytest.approx(1.0, abs=0.005)


def test_depth_of_every_fourth_image_is_enough():
    slam, _ = solve(lambda slam, index, stamp: slam.depth.add(stamp + 10**7, depth_at(index)) if index % 12 == 0 else
                    None)
    assert slam.solution.metric.state == OBSERVED
    assert meters(slam) == pytest.approx(1.0, abs=0.01)


def test_depth_images_with_other_stamps_are_ignored():
    slam, _ = solve(lambda slam, index, stamp: slam.depth.add(stamp + 3 * 10**7, depth_at(index))
                    if index % 3 == 0 else None)
    assert slam.solution.metric.state == UNKNOWN


def test_depth_is_compared_pixel_by_pixel_at_any_size():
    ours = kept(cv2.resize(depth_at(0), (160, 120), interpolation=cv2.INTER_NEAREST) / 2.5)
    log, sigma = depth_ratio(depth_at(0), ours)
    assert np.exp(log) == pytest.approx(2.5, rel=0.003)
    assert sigma < 0.03
    assert depth_ratio(np.full((240, 320), np.nan, np.float32), ours) is None


def test_registered_depth_is_rectified_as_its_image_is():
    """The sensor's pixels are those of the distorted image; half its resolution is enough."""
    camera = Camera(*SIZE, VIEW, (0.2, -0.4, 0.001, -0.002, 0.1))
    rectify = Rectifier(camera, SIZE)
    columns, rows = np.meshgrid(np.arange(320.0), np.arange(240.0))
    rays = cv2.undistortPoints(np.stack([columns, rows], 2).reshape(-1, 1, 2), VIEW, np.array(camera.distortion))
    slope = (2.0 / (1 - 0.5 * rays[:, 0, 0] - 0.3 * rays[:, 0, 1])).reshape(240, 320).astype(np.float32)
    ours = rectified_depth(slope, rectify)
    grid = np.meshgrid((np.arange(ours.shape[1]) + 0.5) * 320 / ours.shape[1] - 0.5,
                       (np.arange(ours.shape[0]) + 0.5) * 240 / ours.shape[0] - 0.5)
    x, y = (grid[0] - rectify.intrinsics[0, 2]) / rectify.intrinsics[0, 0], \
        (grid[1] - rectify.intrinsics[1, 2]) / rectify.intrinsics[1, 1]
    exact = 2.0 / (1 - 0.5 * x - 0.3 * y)
    assert np.nanmax(np.abs(ours / exact - 1)) < 0.01
    half = rectified_depth(slope[1::2, 1::2], rectify)
    assert np.nanmedian(np.abs(half / exact - 1)) < 0.01


# Camera height.


def view_of_ground(height, tilt=0.25, seed=0, table=0.0, noise=0.01):
    """Depth of a level floor `height` below a camera that looks down by `tilt`, with a table that hides part of it."""
    columns, rows = np.meshgrid(np.arange(160.0), np.arange(120.0))
    intrinsics = np.array([[125.0, 0, 79.5], [0, 125.0, 59.5], [0, 0, 1]])
    rays = np.stack([(columns - 79.5) / 125, (rows - 59.5) / 125, np.ones_like(rows)], 2)
    up = so3_exp(np.array([tilt, 0, 0])) @ np.array([0, -1.0, 0])
    down = -(rays @ up)
    depth = np.where(down > 0.05, height / np.maximum(down, 0.05), 8.0)
    if table:
        on_table = (np.abs(columns - 80) < 30) & (down > 0.05)
        depth = np.where(on_table, table / np.maximum(down, 0.05), depth)
    errors = noise * np.random.default_rng(seed).standard_normal(depth.shape)
    return kept(np.minimum(depth, 8.0) * np.exp(errors), intrinsics), up


@pytest.mark.parametrize("height", [0.3, 1.2])
@pytest.mark.parametrize("tilt", [0.0, 0.25, 0.6])
def test_the_ground_is_found(height, tilt):
    distance, sigma = ground_distance(*view_of_ground(height, tilt))
    assert distance == pytest.approx(height, rel=0.015)
    assert sigma < 0.02


@pytest.mark.parametrize(("tilt", "noise"), [(0.0, 0.02), (0.25, 0.05), (0.25, 0.08)])
def test_noise_of_the_pixels_neither_hides_the_ground_nor_moves_it(tilt, noise):
    """Most of a floor is seen at grazing angles, where a fit to points in space tilts with their noise."""
    found = [ground_distance(*view_of_ground(1.2, tilt, seed, noise=noise)) for seed in range(8)]
    assert None not in found
    errors = np.array([distance / 1.2 - 1 for distance, _ in found])
    assert np.abs(errors).max() < 0.01 and abs(errors.mean()) < 0.004
    assert all(abs(error) < 3 * sigma for error, (_, sigma) in zip(errors, found, strict=True))


def test_a_table_is_not_the_ground():
    distance, _ = ground_distance(*view_of_ground(1.2, table=0.6))
    assert distance == pytest.approx(1.2, rel=0.02)


def test_a_wall_is_not_the_ground():
    depth, up = view_of_ground(1.2)
    assert ground_distance(depth, so3_exp(np.array([0.0, 0.0, 1.2])) @ up) is None
    assert ground_distance(kept(np.full((120, 160), 2.0), depth.intrinsics), np.array([0, -1.0, 0])) is None


def test_the_floor_of_a_recorded_depth_camera_is_found_at_one_height():
    """Head-worn, in rooms: the floor is as far below as the true camera is high, up to a constant."""
    sequence = open_sequence(recorded("hololens_dvmvs_000"))
    truth, up = dict(zip(sequence.truth[0].tolist(), sequence.truth[1], strict=True)), np.array([0.0, 1.0, 0.0])
    floors = []
    for stamp, depth in sequence.depths():
        world_camera = truth[min(truth, key=lambda other: abs(other - stamp))]
        small, intrinsics = depth[1::3, 1::3], resize_intrinsics(sequence.camera.intrinsics, 1 / 3, 1 / 3)
        found = ground_distance(kept(np.nan_to_num(small), intrinsics), world_camera[:3, :3].T @ up)
        if found is not None:
            floors.append(world_camera[1, 3] - found[0])
    assert len(floors) > 50
    assert robust_sigma(np.array(floors)) < 0.02 and np.ptp(floors) < 0.12


def test_a_known_camera_height_makes_the_map_metric():
    """The room's floor under a camera that stays at its height; a table stands in the middle of it."""
    level = POSES.copy()
    level[:, 2, 3] = 1.1
    exact = SceneReconstructor(room(), STAMPS.tolist(), level)
    slam, _ = solve(lambda *_: None, SMALL.replace({"scale.camera_height": 1.1}), exact,
                    up=inverse(level[0])[:3, :3] @ np.array([0, 0, 1.0]))
    assert slam.solution.metric.state == OBSERVED
    assert slam.solution.metric.source == "camera height"
    assert meters(slam) == pytest.approx(1.0, abs=0.02)


# Together.


def test_sources_that_agree_are_both_named_and_a_contradiction_is_reported():
    both = [odometry(), depth_feed(0, 0, 1.0)]
    slam, _ = solve(lambda *args: [feed(*args) for feed in both])
    assert slam.solution.metric.source == "odometry, depth"
    wrong = [odometry(lambda _, step: pose(step[:3, :3], 1.3 * step[:3, 3])), depth_feed(0, 0, 1.0)]
    slam, _ = solve(lambda *args: [feed(*args) for feed in wrong])
    assert "contradicts" in slam.scale.report["odometry"] or "contradicts" in slam.scale.report["depth"]
