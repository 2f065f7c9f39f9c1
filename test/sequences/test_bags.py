"""Bags whose calibration is missing at first, wrong, or beside other cameras, and bags that are damaged."""

from __future__ import annotations

import numpy as np
import pytest
from recordings import STAMP, TYPES, camera_info, header, pictures, raw_image, write_messages, write_split_bag

from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import SequenceError
from vggt_ros.sequences.topics import nearest_info

IMAGE, INFO = "/cam/image_raw", "/cam/camera_info"


def bag(path, infos, images=None, image_topic=IMAGE, info_topic=INFO, ros=2):
    """Write a bag with one CameraInfo, given by its changed fields, before every image."""
    messages = []
    for index, (changes, image) in enumerate(zip(infos, images or pictures(len(infos)), strict=True)):
        stamp = STAMP + index * 10**8
        if changes is not None:
            messages.append((info_topic, stamp, camera_info(stamp, ros=ros, **changes)))
        messages.append((image_topic, stamp, raw_image(stamp, image, ros)))
    write_messages(path, messages, ros, mcap=ros == 2)
    return path


ZERO = {"k": np.zeros(9), "p": np.zeros(12), "d": np.zeros(5)}
DOUBLE = {"size": (128, 96), "k": [100, 0, 63, 0, 102, 47, 0, 0, 1]}


@pytest.mark.parametrize("first", [ZERO, DOUBLE, {"k": np.full(9, np.nan)}, {"d": [0.1, 0.2, 0.3]}])
def test_the_first_calibration_that_can_be_used_is_taken(tmp_path, first):
    sequence = open_sequence(bag(tmp_path / "b", [first, first, {}, {}]))
    assert sequence.camera.calibrated
    assert sequence.camera.intrinsics[1, 1] == 51
    assert not sequence.assumptions
    assert len(list(sequence)) == 4


@pytest.mark.parametrize(("changes", "words"), [
    ({"k": [50, 0, 0, 0, 51, 0, 31.5, 23.5, 1]}, "transposed"),
    ({"k": [50, 0, 0, 0, 1, 0, 0, 0, 0]}, "K is not"), ({"k": [50, 0, 31.5, 0, 1, 23.5, 0, 0, 1]}, "too far from each"),
    ({"k": [50, 0, 31.5, 0, 51, 48.5, 0, 0, 1]}, "outside the image"),
    ({"k": [1, 0, 31.5, 0, 1, 23.5, 0, 0, 1], "d": np.zeros(5)}, "degrees"),
    ({"distortion_model": "double_sphere", "d": [0.1, 0.2]}, "double_sphere"),
    ({"d": [-8.0, 4.0, 0, 0, 0]}, "folds inside the image"),
    (DOUBLE, "64x48 pixels, the calibration is for 128x96")])
def test_a_wrong_calibration_is_named_and_can_be_ignored(tmp_path, changes, words):
    bag(tmp_path / "b", [changes] * 3)
    with pytest.raises(SequenceError, match=rf"{INFO}: .*{words}"):
        open_sequence(tmp_path / "b")
    sequence = open_sequence(tmp_path / "b", info_topic="none", fov=70)
    assert "70 degrees" in sequence.assumptions[0]
    assert len(list(sequence)) == 3


def test_a_calibration_without_a_size_is_for_the_images(tmp_path):
    sequence = open_sequence(bag(tmp_path / "b", [{"size": (0, 0)}] * 3))
    assert (sequence.camera.width, sequence.camera.height, sequence.camera.calibrated) == (64, 48, True)
    assert len(list(sequence)) == 3


def test_rectified_images_need_p_only(tmp_path):
    matrix = [60, 0, 31, 0, 0, 60, 24, 0, 0, 0, 1, 0]
    only_p = {"k": np.zeros(9), "p": matrix, "d": np.zeros(8), "distortion_model": "rational_polynomial"}
    sequence = open_sequence(bag(tmp_path / "b", [only_p] * 2, image_topic="/cam/image_rect"))
    assert sequence.rectified
    assert sequence.camera.intrinsics.tolist() == [[60, 0, 31], [0, 60, 24], [0, 0, 1]]
    raw = open_sequence(bag(tmp_path / "raw", [only_p] * 2))
    assert not raw.camera.calibrated
    assert "P is valid" in raw.assumptions[0]


@pytest.mark.parametrize(("model", "given", "expected"), [
    ("equidistant", [-0.009, 0.004, -0.003, 0.0008, 0.0], ("equidistant", 4)),
    ("equidistant", [0.01] + [0.0] * 7, ("equidistant", 4)), ("plumb_bob", [0.1, 0.01, 0, 0, 0.001, 0, 0, 0],
                                                              ("plumb_bob", 5)),
    ("plumb_bob", [0.1, 0.01, 0, 0, 0.001, 0.2, 0.01, 0.001], ("rational_polynomial", 8)),
    ("plumb_bob", [0.0] * 5, ("plumb_bob", 0)), ("", [0.1, 0.01, 0, 0], ("plumb_bob", 4))])
def test_coefficients_in_arrays_of_a_fixed_length(tmp_path, model, given, expected):
    camera = open_sequence(bag(tmp_path / "b", [{"distortion_model": model, "d": given}] * 2)).camera
    assert (camera.model, len(camera.distortion)) == expected
    assert camera.distortion == tuple(given[:expected[1]])


def test_the_camera_follows_a_calibration_that_changes(tmp_path):
    """As in the node: the newest one holds from the next image on, unless it cannot be used."""
    sequence = open_sequence(bag(tmp_path / "b", [{}, {"k": [55, 0, 31.5, 0, 56, 23.5, 0, 0, 1]}, ZERO,
                                                  {"k": np.full(9, np.nan)}]))
    assert [sequence.camera.intrinsics[0, 0] for _ in sequence] == [50, 55, 55, 55]
    assert [sequence.camera.intrinsics[0, 0] for _ in sequence] == [50, 55, 55, 55], "a second pass begins anew"


@pytest.mark.parametrize(("image", "infos", "expected"), [
    ("/image_raw/compressed", ["/arm_camera/camera_info", "/camera_info"], "/camera_info"),
    ("/image_raw", ["/camera_info", "/arm/camera_info"], "/camera_info"),
    ("/a/left/image_raw", ["/a/camera_info", "/a/left/camera_info", "/b/camera_info"], "/a/left/camera_info"),
    ("/a/left/image_raw", ["/b/left/camera_info", "/a/info"], "/a/info"),
    ("/image_raw", ["/z/camera_info", "/b/camera_info"], "/b/camera_info"), ("/image_raw", [], "")])
def test_the_calibration_beside_the_images_comes_first(image, infos, expected):
    assert nearest_info(image, infos) == expected


def test_two_cameras_one_in_the_root_namespace(tmp_path):
    messages = []
    for index, image in enumerate(pictures(2)):
        stamp = STAMP + index * 10**8
        messages += [("/arm_camera/camera_info", stamp, camera_info(stamp, k=[90, 0, 31.5, 0, 90, 23.5, 0, 0, 1])),
                     ("/camera_info", stamp, camera_info(stamp)), ("/image_raw", stamp, raw_image(stamp, image)),
                     ("/arm_camera/image_raw", stamp, raw_image(stamp, image))]
    write_messages(tmp_path / "b", messages)
    sequence = open_sequence(tmp_path / "b", image_topic="/image_raw")
    assert sequence.camera.intrinsics[0, 0] == 50
    assert not sequence.assumptions


def test_a_bag_of_ros_1_is_read_as_one_of_ros_2(tmp_path):
    images = pictures(3)
    old = open_sequence(bag(tmp_path / "old.bag", [{}] * 3, images, ros=1))
    new = open_sequence(bag(tmp_path / "new", [{}] * 3, images))
    assert np.array_equal(old.camera.intrinsics, new.camera.intrinsics)
    assert old.camera.distortion == new.camera.distortion
    for (stamp, image), (other, same) in zip(old, new, strict=True):
        assert stamp == other
        assert np.array_equal(image, same)
    with pytest.raises(SequenceError, match=r"bags of ROS 1; name one of them, such as .*old\.bag"):
        open_sequence(tmp_path)


def test_images_that_cannot_be_used_are_left_out_and_named(tmp_path):
    images = pictures(6)
    messages = [(INFO, STAMP, camera_info(STAMP))]
    for index, image in enumerate(images):
        stamp = STAMP + index * 10**8
        message = raw_image(stamp, image)
        if index == 1:
            message.data = message.data[:100]
        if index == 2:
            message.encoding = "rgb8x"
        if index == 3:
            message = raw_image(stamp, np.zeros((40, 40, 3), np.uint8))
        messages.append((IMAGE, stamp, message))
        if index == 4:
            messages.append((IMAGE, stamp + 1, "sensor_msgs/msg/Image", b"\0\1\0\0broken"))
    write_messages(tmp_path / "b", messages)
    sequence = open_sequence(tmp_path / "b")
    assert [(stamp - STAMP) // 10**8 for stamp, _ in sequence] == [0, 4, 5]
    assert sequence.omitted.count == 4
    text = "\n".join(sequence.omitted.lines)
    assert all(word in text for word in ("100 bytes are too few", "rgb8x", "40x40 pixels", "not a message"))


def test_a_bag_that_breaks_off_yields_what_is_before(tmp_path):
    """Power was lost while it was recorded: a part of the file is zeros."""
    images = pictures(40, (320, 240))
    bag(tmp_path / "b", [{"size": (320, 240), "k": [250, 0, 160, 0, 250, 120, 0, 0, 1]}] * 40, images)
    (storage,) = (tmp_path / "b").glob("*.mcap")
    with storage.open("r+b") as file:
        file.seek(storage.stat().st_size // 2)
        file.write(bytes(400_000))
    sequence = open_sequence(tmp_path / "b")
    got = list(sequence)
    assert 5 < len(got) < 39
    assert all(np.array_equal(image, mine) for (_, image), mine in zip(got, images, strict=False))
    assert any("the rest of the bag" in line for line in sequence.omitted.lines)


def test_a_recorder_that_was_killed_left_a_bag_that_can_be_mended(tmp_path):
    (storage,) = bag(tmp_path / "b", [{}] * 5).glob("*.mcap")
    storage.write_bytes(storage.read_bytes()[:-200])
    for path in (storage, tmp_path / "b"):
        with pytest.raises(SequenceError, match=r"not a readable bag .*mcap recover"):
            open_sequence(path)


@pytest.mark.parametrize("mcap", [True, False])
@pytest.mark.parametrize("metadata", [None, "", "rosbag2_bagfile_information:\n  version: 99\n"])
@pytest.mark.parametrize("kept", [1.0, 0.5, 0.0])
def test_of_a_split_bag_all_files_that_are_whole_are_read(tmp_path, mcap, metadata, kept):
    """Power was lost: the last file is cut off, and metadata.yaml, which is written at the end, is not there."""
    *_, last = write_split_bag(tmp_path / "b", mcap=mcap)
    last.write_bytes(last.read_bytes()[:int(kept * last.stat().st_size)])
    if metadata is not None:
        (tmp_path / "b" / "metadata.yaml").write_text(metadata)
    sequence = open_sequence(tmp_path / "b")
    stamps = [stamp for stamp, _ in sequence]
    assert stamps == [STAMP + index * 10**8 for index in range(6 if kept == 1 else 4)]
    assert len(sequence) == len(stamps)
    said, = (line for line in sequence.assumptions if "not all of the bag can be read" in line)
    assert kept == 1 or (f"({last.name}: " in said and ("mcap recover" if mcap else "sqlite3") in said)


def test_the_bag_in_a_folder_is_named(tmp_path):
    write_split_bag(tmp_path / "drive", parts=1)
    (tmp_path / "part_0" / "metadata.yaml").unlink()
    with pytest.raises(SequenceError, match=f"; {tmp_path / 'drive'} is a bag"):
        open_sequence(tmp_path)
    (tmp_path / "drive" / "drive_0.mcap").rename(tmp_path / "drive" / "drive_0.mcap.zstd")
    with pytest.raises(SequenceError, match="a compressed bag without"):
        open_sequence(tmp_path / "drive")


def test_files_of_several_bags_are_not_one_recording(tmp_path):
    files = write_split_bag(tmp_path / "b", parts=2, names="{}_drive")
    with pytest.raises(SequenceError, match=f"several bags: name one of them, such as {files[0]}"):
        open_sequence(tmp_path / "b")


@pytest.mark.parametrize(("name", "words"), [
    ("a.bag", "`rosbag reindex` mends"), ("a.bag.active", "not closed; `rosbag reindex` mends"),
    ("a.gif", "convert it to a video or to JPEG"), ("a.heic", "convert it to a video or to JPEG")])
def test_a_file_that_cannot_be_read_is_named_with_the_cure(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(SequenceError, match=f"{name}: .*{words}"):
        open_sequence(tmp_path / name)


def test_images_before_1970_are_left_out_as_in_the_node(tmp_path):
    """Nor could the trajectory be read again."""
    write_messages(tmp_path / "b", [(IMAGE, STAMP + index, raw_image(index * 10**9 - 10**9, image))
                                    for index, image in enumerate(pictures(3))])
    sequence = open_sequence(tmp_path / "b")
    assert len(list(sequence)) == 2
    assert sequence.omitted.lines == ["1 image left out, at -1000000000 ns: the stamp is negative"]


def test_images_without_stamps_have_the_times_of_recording(tmp_path):
    """A driver that leaves header.stamp at 0: the recording knows when they came."""
    images = pictures(3)
    stamps = [STAMP + index * 10**8 for index in range(3)]
    write_messages(tmp_path / "b", [
        (IMAGE, stamp, "sensor_msgs/msg/Image", TYPES[2].serialize_cdr(raw_image(0, image), "sensor_msgs/msg/Image"))
        for stamp, image in zip(stamps, images, strict=True)])
    sequence = open_sequence(tmp_path / "b")
    assert [stamp for stamp, _ in sequence] == [stamp + 12345 for stamp in stamps]
    assert f"the times of recording, since header.stamp in {IMAGE} is 0" in sequence.assumptions


def test_two_calibrations_are_refused(tmp_path):
    (tmp_path / "calibration.txt").write_text("50 50 31.5 23.5\n")
    bag(tmp_path / "b", [{}] * 2)
    assert open_sequence(tmp_path / "b", calibration=tmp_path / "calibration.txt").camera.intrinsics[1, 1] == 50
    with pytest.raises(SequenceError, match=r"calibration\.txt and of /cam/camera_info are given"):
        open_sequence(tmp_path / "b", info_topic=INFO, calibration=tmp_path / "calibration.txt")


def test_depth_that_is_taken_for_images_is_named(tmp_path):
    depth = TYPES[2].types["sensor_msgs/msg/Image"]
    write_messages(tmp_path / "b", [("/cam/depth/image", STAMP + i, depth(
        header(STAMP + i), 48, 64, "16UC1", 0, 128, np.full(48 * 128, 5, np.uint8))) for i in range(2)])
    assert any("/cam/depth/image is a topic of depth" in line for line in open_sequence(tmp_path / "b").assumptions)
