"""Decoding of raw network output to geometry, without a network."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from scenes import SIZE, lap, run, trajectory_error
from vggt_oracle import VggtOracle

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera, Rectifier
from vggt_ros.geometry.poses import inverse, pose, rotation_angle, so3_exp
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.vggt.model.image_size import network_size
from vggt_ros.reconstruction.vggt.output.decoding import (
    camera_from_world,
    decode,
    encode,
    predicted_intrinsics,
    unproject,
)
from vggt_ros.reconstruction.vggt.output.filtering import at_depth_edge, filter_points, median_of, rank
from vggt_ros.reconstruction.vggt.settings import CONVENTIONS, VggtConfig
from vggt_ros.synthetic import OracleNoise
from vggt_ros.windows.keyframe import Keyframe, Window


def window(count: int = 4, calibrated: bool = True) -> Window:
    """Return a window of the lap."""
    return Window(0, tuple(Keyframe(i, f.stamp, f.image, f.intrinsics, calibrated)
                           for i, f in enumerate(lap().frames[: 2 * count: 2])))


@pytest.fixture(name="exact")
def _exact():
    return lap().oracle(depth_width=SIZE[0], noise=OracleNoise(scale=0)).reconstruct(window())


def test_decoding_undoes_encoding(exact):
    """The geometry is recovered for any pose of the first camera and any norms of the quaternions."""
    first = pose(so3_exp(np.array([0.02, -0.01, 0.03])), np.array([0.1, -0.2, 0.05]))
    back = decode(encode(exact, first, (0.5, 2.0)).filtered(VggtConfig()), window())
    assert np.array_equal(back.window_camera[0], np.eye(4))
    np.testing.assert_allclose(back.window_camera, exact.window_camera, atol=2e-6)
    np.testing.assert_array_equal(back.depth, exact.depth)
    np.testing.assert_array_equal(back.intrinsics, exact.intrinsics)
    order = np.argsort(exact.confidence.ravel())
    assert (np.diff(back.confidence.ravel()[order]) >= -1e-6).all()
    assert back.confidence.max() == 1


def test_raw_poses_are_camera_from_world(exact):
    """A camera at x = 1, rotated by 90 degrees about y; expected values computed by hand."""
    encoding = np.array([[0, 0, 1.0, 0, np.sqrt(2), 0, np.sqrt(2), np.pi / 2, np.pi / 2]])
    matrix = camera_from_world(encoding)[0]
    np.testing.assert_allclose(matrix @ [1, 0, 0, 1], [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(matrix @ [1, 0, 5, 1], [5, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(predicted_intrinsics(encoding, 100, 200)[0], [[100, 0, 100], [0, 50, 50], [0, 0, 1]])


def test_unprojection_is_consistent_between_frames(exact):
    """A surface point observed by two frames has the same position in the window."""
    points = unproject(exact.depth, exact.window_camera, exact.intrinsics)
    local = (points[0] - exact.window_camera[1, :3, 3]) @ exact.window_camera[1, :3, :3]
    pixels = np.rint(local[..., :2] / local[..., 2:] * exact.intrinsics[1][[0, 1], [0, 1]]
                     + exact.intrinsics[1][:2, 2]).astype(int)
    inside = (local[..., 2] > 0.1) & (pixels >= 0).all(-1) & (pixels < SIZE).all(-1)
    seen = exact.depth[1][pixels[inside][:, 1], pixels[inside][:, 0]]
    assert inside.mean() > 0.5
    assert np.median(np.abs(seen / local[inside][:, 2] - 1)) < 2e-3


def test_unknown_intrinsics_come_from_the_network(exact):
    """Without calibration: the predicted focal length, and the published principal point."""
    raw = encode(exact).filtered(VggtConfig())
    back = decode(raw, window(calibrated=False))
    np.testing.assert_allclose(back.intrinsics[:, [0, 1], [0, 1]], exact.intrinsics[:, [0, 1], [0, 1]], rtol=1e-6)
    np.testing.assert_allclose(back.intrinsics[:, :2, 2], np.tile([SIZE[0] / 2, SIZE[1] / 2], (4, 1)))


def test_a_wrong_calibration_is_reported(exact):
    """The network predicts a focal length 10 % longer than that of the CameraInfo."""
    other = dataclasses.replace(exact, intrinsics=exact.intrinsics * [[1.1], [1.1], [1]])
    report = decode(encode(other).filtered(VggtConfig()), window()).report
    assert report["focal_predicted_ratio"] == pytest.approx(1.1, abs=1e-5)


def test_filtering_of_depth(exact):
    """Edges, sky and far points are filtered out according to the settings, and nothing without them."""
    raw = encode(exact)

    def filtered(**settings):
        return decode(raw.filtered(VggtConfig(**settings)), window())

    assert not np.isnan(filtered().depth).any()
    assert np.array_equal(np.isnan(filtered(far=1.2).depth), exact.depth > 1.2 * np.median(exact.depth))
    sky = filtered(min_raw_confidence=10.0)
    assert np.array_equal(np.isnan(sky.depth), raw.depth_conf < 10)
    assert (sky.confidence[np.isnan(sky.depth)] == 0).all()
    step = torch.ones(1, 4, 6)
    step[:, :, 3:] = 2
    assert np.array_equal(at_depth_edge(step, 0.5)[0].numpy(),
                          np.tile([False, False, True, True, False, False], (4, 1)))
    assert not at_depth_edge(step, 0.8).any()


def test_the_filter_equals_a_numpy_implementation(exact):
    """Compared with a second implementation; pixels that are not finite are filtered out individually."""
    rng = np.random.default_rng(0)
    depth = np.exp(rng.standard_normal((2, 30, 40))).astype(np.float32)
    conf = 1 + np.exp(rng.standard_normal(depth.shape)).astype(np.float32)
    depth[0, :3], depth[1, 5], conf[0, 7, :9] = np.nan, -1.0, np.inf
    settings = VggtConfig(edge_jump=2.0, far=3.0, min_raw_confidence=1.3)
    found, ranks = (value.numpy() for value in filter_points(torch.from_numpy(depth), torch.from_numpy(conf), settings))
    with np.errstate(invalid="ignore"):
        log = np.log(depth)
        edge = np.zeros(depth.shape, bool)
        for axis in (1, 2):
            jumps = np.abs(np.diff(log, axis=axis)) > 2.0
            edge |= np.insert(jumps, 0, False, axis) | np.insert(jumps, jumps.shape[axis], False, axis)
        kept = np.isfinite(depth) & (depth > 0) & np.isfinite(conf) & (conf >= np.float32(1.3)) & ~edge
        kept &= depth <= 3.0 * np.sort(depth[kept])[(kept.sum() - 1) // 2]
    assert 0.3 < kept.mean() < 0.9
    assert np.array_equal(found, np.where(kept, depth, np.nan), equal_nan=True)
    assert (ranks[~kept] == 0).all()
    expected = conf[kept].argsort().argsort() / kept.sum()
    assert np.corrcoef(expected, ranks[kept])[0, 1] > 0.999


def test_invalid_output_is_refused(exact):
    raw = encode(exact)
    bad = raw.pose_enc.copy()
    bad[1, 0] = np.nan
    with pytest.raises(ReconstructionRefused, match="not finite"):
        decode(dataclasses.replace(raw, pose_enc=bad).filtered(VggtConfig()), window())
    with pytest.raises(ReconstructionRefused, match="no depth"):
        decode(dataclasses.replace(raw, depth=np.full_like(raw.depth, np.nan)).filtered(VggtConfig()), window())


def test_the_median_is_that_of_torch():
    """`torch.nanmedian` waits for a GPU, ours does not; if nothing is valid, nothing is beyond a multiple of it."""
    values = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0))
    for count in (1, 2, 35, 70):
        valid = (torch.arange(70) < count).view(2, 5, 7)
        assert median_of(values, valid) == values.masked_fill(~valid, torch.nan).nanmedian()
    assert median_of(values, torch.zeros_like(valid)) == torch.inf


def test_ranks_are_uniform():
    """A tenth of all pixels is below 0.1, whatever the confidences' distribution."""
    values = np.exp(np.random.default_rng(0).standard_normal((3, 50, 60))).astype(np.float32)
    ranks = rank(torch.from_numpy(values)).numpy() / 255
    assert ranks.min() == 0
    assert ranks.max() == 1
    for level in (0.1, 0.5, 0.9):
        assert np.mean(ranks < level) == pytest.approx(level, abs=0.01)


def test_raw_poses_of_other_networks_are_world_from_camera(exact):
    """The same encoding, taken as the camera's pose: at (0, 0, 1), looking along x; expected by hand, and undone."""
    encoding = np.array([[0, 0, 1.0, 0, np.sqrt(2), 0, np.sqrt(2), np.pi / 2, np.pi / 2]])
    camera_world = camera_from_world(encoding, "world_from_camera")[0]
    np.testing.assert_allclose(inverse(camera_world) @ [0, 0, 0, 1], [0, 0, 1, 1], atol=1e-12)
    np.testing.assert_allclose(inverse(camera_world) @ [0, 0, 5, 1], [5, 0, 1, 1], atol=1e-12)
    first = pose(so3_exp(np.array([0.02, -0.01, 0.03])), np.array([0.1, -0.2, 0.05]))
    raw = encode(exact, first, (0.5, 2.0), "world_from_camera").filtered(VggtConfig())
    back = decode(raw, window(), convention="world_from_camera")
    np.testing.assert_allclose(back.window_camera, exact.window_camera, atol=2e-6)
    assert back.notes == decode(encode(exact, first).filtered(VggtConfig()), window()).notes == ()


@pytest.mark.parametrize(("true", "set_"), [CONVENTIONS, CONVENTIONS[::-1]])
def test_the_wrong_convention_of_poses_is_noticed(exact, true, set_):
    back = decode(encode(exact, convention=true).filtered(VggtConfig()), window(), convention=set_)
    assert f"agree better if the predicted poses are {true}: see vggt.pose_convention" in back.notes[0]


def test_both_conventions_of_poses_give_the_same_geometry():
    found = []
    for convention in CONVENTIONS:
        oracle = lap().oracle(kind=VggtOracle)
        oracle.settings = VggtConfig(pose_convention=convention)
        found.append(oracle.reconstruct(window()))
    np.testing.assert_allclose(*(one.window_camera for one in found), atol=1e-5)
    assert np.linalg.norm(found[0].window_camera[-1, :3, 3]) > 1e-2


def test_the_pipeline_recovers_the_ground_truth_from_raw_output():
    """A lap encoded as raw output, with a different scale per window, is accurate to 1e-3 of the room size."""
    sequence = lap()
    done = run(sequence, Config(), sequence.oracle(kind=VggtOracle), follows_map=False)
    stamps, poses = done.slam.solution.trajectory(0)
    error, world_map = trajectory_error(stamps, poses, sequence)
    size = float(np.ptp(sequence.world_camera[:, :3, 3], axis=0).max())
    assert done.slam.counts.submaps == 1
    assert len(stamps) >= 15
    assert error < 1e-3 * size
    turns = [rotation_angle((inverse(t) @ pose(world_map.rotation, np.zeros(3)) @ p)[:3, :3])
             for t, p in zip(sequence.truth(stamps), poses, strict=True)]
    assert max(turns) < 1e-3


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080), (752, 480), (480, 640)])
def test_sizes_are_the_published_ones_and_keep_the_aspect(width, height):
    """4:3 gives 518x392, 16:9 518x294; the intrinsics of the rectified images are the scaled ones of the camera."""
    camera = Camera.assumed(width, height, 65.0)
    size = network_size(camera, 518)
    assert size == {(640, 480): (518, 392), (1920, 1080): (518, 294), (752, 480): (518, 336),
                    (480, 640): (518, 518)}[width, height]
    matrix = Rectifier(camera, size).intrinsics
    assert matrix[0, 0] / matrix[1, 1] == pytest.approx(1, abs=2e-3)
    cover = max(size[0] / width, size[1] / height)
    assert matrix[0, 0] == pytest.approx(camera.intrinsics[0, 0] * cover, rel=2e-3)
    assert network_size(camera, 300)[0] == 294
