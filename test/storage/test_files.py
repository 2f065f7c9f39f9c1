from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_ros.storage.files import (
    FileError,
    format_stamp,
    parse_stamp,
    read_ply,
    read_trajectory,
    write_ply,
    write_trajectory,
)
from vggt_ros.synthetic import laps
from vggt_ros.windows.point_cloud import PointCloud


@given(st.integers(0, 2**62))
def test_stamps_are_exact(stamp):
    assert parse_stamp(format_stamp(stamp)) == stamp


@pytest.mark.parametrize(("text", "stamp"), [("1305031102.175304", 1305031102175304000), ("0.3", 300000000),
                                             ("7", 7 * 10**9), ("1.1234567890", 1123456789), ("1e9", 10**18),
                                             ("1.305031102175303936e+09", 1305031102175303936),
                                             ("1305031102.175303936004638672", 1305031102175303936),
                                             ("1305031102175303936", 1305031102175303936), ("9.5e-1", 950000000)])
def test_stamps_in_other_notations(text, stamp):
    assert parse_stamp(text) == stamp


@given(st.integers(0, 2**63 - 1), st.integers(0, 10))
def test_stamps_with_an_exponent_are_exact(stamp, shift):
    assert parse_stamp(f"{stamp}e-9") == stamp
    assert parse_stamp(f"{stamp}{'0' * shift}e-{9 + shift}") == stamp


@given(st.integers(10**17, 2**63 - 1))
def test_whole_numbers_that_are_too_large_for_seconds_are_nanoseconds(stamp):
    assert parse_stamp(str(stamp)) == stamp


@pytest.mark.parametrize("text", ["1305031102175", "1305031102175303", "1e99", "99999999999999999999", "1e18.5",
                                  "1305031102175.5"])
def test_a_time_whose_unit_is_unclear_is_named(text):
    with pytest.raises(ValueError, match=r"too large|not a time"):
        parse_stamp(text)


@pytest.mark.parametrize("text", ["", "abc", "-1.0", "1.2.3", "nan", "inf", "0x10", "1_000", "1e"])
def test_text_that_is_no_stamp_is_rejected(text):
    with pytest.raises(ValueError, match="not a time"):
        parse_stamp(text)


def test_a_trajectory_is_read_as_it_was_written(tmp_path):
    stamps, poses = 1_700_000_000_123_456_789 + np.arange(20) * 33_333_333, laps(20)
    write_trajectory(tmp_path / "t.txt", stamps, poses)
    again_stamps, again = read_trajectory(tmp_path / "t.txt")
    assert np.array_equal(again_stamps, stamps)
    assert np.allclose(again, poses, atol=1e-8)
    assert (tmp_path / "t.txt").read_text().splitlines()[1].startswith("1700000000.123456789 ")


@pytest.mark.parametrize("text", ["", "# nothing\n", "1.0 1 2 3\n", "1.0 1 2 3 0 0 0 x\n", "1.0 1 2 3 0 0 0 0\n",
                                  "1.0 nan 2 3 0 0 0 1\n", "x 1 2 3 0 0 0 1\n"])
def test_errors_name_the_damaged_trajectory(tmp_path, text):
    (tmp_path / "broken.txt").write_text(text)
    with pytest.raises(FileError, match=r"broken\.txt"):
        read_trajectory(tmp_path / "broken.txt")


def test_a_trajectory_that_evo_saved_is_read(tmp_path):
    """numpy's savetxt writes exponents, and 18 decimals of which the last nine are those of the float64."""
    stamps, poses = 1_305_031_102_175_304_000 + np.arange(20) * 33_333_333, laps(20)
    write_trajectory(tmp_path / "ours.txt", stamps, poses)
    table = np.loadtxt(tmp_path / "ours.txt")
    np.savetxt(tmp_path / "exponents.tum", table)
    np.savetxt(tmp_path / "decimals.tum", table, fmt="%.18f")
    lines = [line.split() for line in (tmp_path / "ours.txt").read_text().splitlines()[1:]]
    (tmp_path / "nanoseconds.tum").write_text("".join(
        " ".join([line[0].replace(".", ""), *line[1:]]) + "\n" for line in lines))
    for name, tolerance in (("exponents", 200), ("decimals", 200), ("nanoseconds", 0)):
        found, again = read_trajectory(tmp_path / f"{name}.tum")
        assert np.abs(found - stamps).max() <= tolerance, name
        np.testing.assert_allclose(again, poses, atol=1e-8)


@pytest.mark.parametrize(("encoding", "newline"), [("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("utf-8", "\r")])
def test_text_of_any_editor_is_read(tmp_path, encoding, newline):
    (tmp_path / "t.txt").write_bytes(newline.join(["# times", "1.5 1 2 3 0 0 0 1", ""]).encode(encoding))
    stamps, poses = read_trajectory(tmp_path / "t.txt")
    assert stamps.tolist() == [1_500_000_000]
    assert poses[0, :3, 3].tolist() == [1, 2, 3]


def test_names_of_columns_are_no_poses_and_files_of_other_tools_are_named(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("timestamp tx ty tz qx qy qz qw\n1.5 1 2 3 0 0 0 1\n")
    assert read_trajectory(path)[0].tolist() == [1_500_000_000]
    for line in ("1 0 0 1 0 1 0 2 0 0 1 3", "1403636579763555584,1,2,3,1,0,0,0,0,0,0,0,0,0,0,0,0"):
        path.write_text(f"{line}\n")
        with pytest.raises(FileError, match=r"t\.txt, line 1: .*`evo_traj` converts those of KITTI and EuRoC"):
            read_trajectory(path)


def test_errors_name_the_missing_file(tmp_path):
    for read in (read_trajectory, read_ply):
        with pytest.raises(FileError, match="nowhere: No such file"):
            read(tmp_path / "nowhere")


def test_ply_has_the_fields_that_any_reader_expects(tmp_path):
    rng = np.random.default_rng(0)
    cloud = PointCloud(rng.normal(size=(50, 3)).astype(np.float32), rng.integers(0, 256, (50, 3), np.uint8),
                       rng.random(50, np.float32), rng.normal(size=(50, 3)).astype(np.float32))
    path = tmp_path / "map.ply"
    write_ply(path, cloud)
    header, body = path.read_bytes().split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 50"]
    assert lines[3:] == [*(f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")),
                         *(f"property uchar {name}" for name in ("red", "green", "blue")), "property float confidence"]
    values = struct.unpack_from("<ffffffBBBf", body, 31 * 7)
    assert values == (*cloud.points[7].tolist(), *cloud.normals[7].tolist(), *cloud.colors[7].tolist(),
                      cloud.confidence[7])
    again = read_ply(path)
    for name in ("points", "colors", "confidence", "normals"):
        assert np.array_equal(getattr(again, name), getattr(cloud, name))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(FileError, match="truncated"):
        read_ply(path)
    path.write_text("ply\nformat ascii 1.0\nend_header\n")
    with pytest.raises(FileError, match="not a PLY file"):
        read_ply(path)
