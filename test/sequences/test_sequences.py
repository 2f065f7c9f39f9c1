from __future__ import annotations

import cv2
import numpy as np
import pytest
from data_folder import recorded
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore

from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import SequenceError

TYPES = get_typestore(Stores.ROS2_JAZZY)
STAMP = 1_700_000_000_123_456_789


def pictures(count=4, size=(64, 48)):
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), size) for _ in range(count)]


def write_folder(path, images, suffix=".png"):
    path.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        cv2.imwrite(str(path / f"{index:03d}{suffix}"), image[..., ::-1])


def write_bag(path, images, info=True, truth=True, others=(), first=50.0, binning=0, unturned=0):
    """Write images, calibration and truth; topics `others` have the same images, `unturned` poses have no rotation."""
    kinds = {name: TYPES.types[name] for name in (
        "builtin_interfaces/msg/Time", "std_msgs/msg/Header", "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo",
        "sensor_msgs/msg/RegionOfInterest", "geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/Pose",
        "geometry_msgs/msg/Point", "geometry_msgs/msg/Quaternion")}
    make = {name.split("/")[-1]: kind for name, kind in kinds.items()}
    height, width = images[0].shape[:2]
    with Writer(path, version=9) as writer:
        topics = {topic: writer.add_connection(topic, kind, typestore=TYPES) for topic, kind in (
            ("/depth/image", "sensor_msgs/msg/Image"), ("/cam/image_raw", "sensor_msgs/msg/Image"),
            ("/cam/camera_info", "sensor_msgs/msg/CameraInfo"), ("/pose", "geometry_msgs/msg/PoseStamped"),
            *((topic, "sensor_msgs/msg/Image") for topic in others))}
        for index, image in enumerate(images):
            stamp = STAMP + index * 10**8
            header = make["Header"](make["Time"](stamp // 10**9, stamp % 10**9), "camera")

            def write(topic, message, stamp=stamp):
                writer.write(topics[topic], stamp + 12345, TYPES.serialize_cdr(message, topics[topic].msgtype))

            padded = np.zeros((height, width * 3 + 5), np.uint8)
            padded[:, :width * 3] = image[..., ::-1].reshape(height, -1)
            for topic in ("/cam/image_raw", *others):
                write(topic, make["Image"](header, height, width, "bgr8", 0, width * 3 + 5, padded.reshape(-1)))
            if info:
                region = make["RegionOfInterest"](0, 0, 0, 0, False)
                write("/cam/camera_info", make["CameraInfo"](
                    header, height, width, "plumb_bob", np.array([0.1, 0.01, 0, 0, 0]),
                    np.array([first, 0, 31.5, 0, 51, 23.5, 0, 0, 1.0]), np.eye(3).reshape(-1), np.zeros(12), binning,
                    binning, region))
            if truth:
                turn = make["Quaternion"](0.0, 0.0, float(index >= unturned), 0.0)
                write("/pose", make["PoseStamped"](header, make["Pose"](make["Point"](index, 0.0, 1.0), turn)))


def test_recorded_folder():
    sequence = open_sequence(recorded("tum_fr1_xyz"))
    stamp, image = next(iter(sequence))
    assert len(sequence) == 399 and stamp == 1305031102175304000 and image.shape == (480, 640, 3)
    assert sequence.camera.distortion == (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)
    assert sequence.truth[1].shape == (397, 4, 4)
    stamp, depth = next(sequence.depths())
    assert stamp == 1305031102175304000 and 0.5 < np.nanmedian(depth) < 2 and np.isnan(depth).any()


def test_the_depth_unit_is_read_from_the_readme():
    _, depth = next(open_sequence(recorded("hololens_dvmvs_000")).depths())
    assert 0.5 < np.nanmedian(depth) < 5


def test_a_bag_equals_the_folder_it_was_made_from():
    folder, bag = open_sequence(recorded("tum_fr1_xyz")), open_sequence(recorded("ros2bag_tum_fr1_xyz"))
    assert len(folder) == len(bag) and bag.name == "ros2bag_tum_fr1_xyz"
    assert np.allclose(folder.camera.intrinsics, bag.camera.intrinsics)
    assert folder.camera.distortion == bag.camera.distortion
    assert np.array_equal(folder.truth[0], bag.truth[0]) and np.allclose(folder.truth[1], bag.truth[1], atol=1e-6)
    for (stamp, image), (other_stamp, other), _ in zip(folder, bag, range(3)):
        assert stamp == other_stamp and np.array_equal(image, other)


def test_raw_bag(tmp_path):
    images = pictures()
    write_bag(tmp_path / "raw", images)
    sequence = open_sequence(tmp_path / "raw")
    got = list(sequence)
    assert [stamp for stamp, _ in got] == [STAMP + i * 10**8 for i in range(4)]  # the header's, not the log's
    assert all(np.array_equal(image, mine) for (_, image), mine in zip(got, images))
    assert sequence.camera.intrinsics[1, 1] == 51 and sequence.camera.distortion[0] == 0.1
    assert sequence.truth[1][2, 0, 3] == 2 and sequence.truth[1][0, 0, 0] == pytest.approx(-1)
    assert not sequence.assumptions
    with pytest.raises(SequenceError, match=r"/nope.*there are: /cam/image_raw"):
        open_sequence(tmp_path / "raw", image_topic="/nope")


def test_a_missing_calibration_is_reported(tmp_path):
    write_bag(tmp_path / "bare", pictures(2), info=False, truth=False)
    sequence = open_sequence(tmp_path / "bare", fov=80)
    assert not sequence.camera.calibrated and "80 degrees" in sequence.assumptions[0] and sequence.truth is None


def test_a_choice_among_topics_is_reported(tmp_path):
    write_bag(tmp_path / "two", pictures(2), others=["/cam/b", "/left/image_raw"])
    sequence = open_sequence(tmp_path / "two")
    assert sequence.image_topic == "/cam/b"
    assert "/cam/image_raw, /left/image_raw" in sequence.assumptions[-1]
    chosen = open_sequence(tmp_path / "two", image_topic="/left/image_raw")
    assert not any("others" in line for line in chosen.assumptions)
    assert "calibration of /cam/camera_info" in chosen.assumptions[-1]  # there is none beside the images


def test_errors_name_an_invalid_calibration(tmp_path):
    write_bag(tmp_path / "nan", pictures(2), first=np.nan)
    with pytest.raises(SequenceError, match=r"/cam/camera_info.*NaN"):
        open_sequence(tmp_path / "nan")
    write_bag(tmp_path / "none", pictures(2), first=0.0)
    assert "K[0] is 0 in /cam/camera_info" in open_sequence(tmp_path / "none").assumptions[0]
    write_bag(tmp_path / "binned", pictures(2), binning=2)
    with pytest.raises(SequenceError, match=r"/cam/image_raw.*64x48 pixels, the calibration is for 32x24"):
        list(open_sequence(tmp_path / "binned"))


def test_truth_without_a_rotation_is_left_out_and_reported(tmp_path):
    write_bag(tmp_path / "zero", pictures(4), unturned=3)
    sequence = open_sequence(tmp_path / "zero")
    assert sequence.truth[0].tolist() == [STAMP + 3 * 10**8] and np.isfinite(sequence.truth[1]).all()
    assert "/pose without 3 poses" in sequence.assumptions[0]


def test_a_bag_is_opened_by_any_of_its_paths(tmp_path, monkeypatch):
    write_bag(tmp_path / "cam", pictures(2))
    (storage,) = (file for file in (tmp_path / "cam").iterdir() if file.suffix in (".db3", ".mcap"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (storage, tmp_path / "cam" / "metadata.yaml", "~/cam"):
        assert len(list(open_sequence(path))) == 2
    (tmp_path / "cam" / "metadata.yaml").unlink()
    with pytest.raises(SequenceError, match=r"cam: a rosbag2 without metadata\.yaml"):
        open_sequence(tmp_path / "cam")


def test_errors_name_an_unreadable_bag(tmp_path):
    (tmp_path / "broken.mcap").write_bytes(b"not a bag at all" * 100)
    with pytest.raises(SequenceError, match=r"broken\.mcap"):
        open_sequence(tmp_path / "broken.mcap")
    write_bag(tmp_path / "cut", pictures(2))
    storage = next((tmp_path / "cut").glob("*.db3"), None) or next((tmp_path / "cut").glob("*.mcap"))
    storage.write_bytes(storage.read_bytes()[:300])
    with pytest.raises(SequenceError, match="cut"):
        open_sequence(tmp_path / "cut")


def test_a_folder_of_images_is_sorted_and_reports_its_assumptions(tmp_path):
    images = pictures()
    write_folder(tmp_path / "shots", images)
    sequence = open_sequence(tmp_path / "shots", rate=20)
    assert [stamp for stamp, _ in sequence] == [0, 50_000_000, 100_000_000, 150_000_000]
    assert all(np.array_equal(image, mine) for (_, image), mine in zip(sequence, images))
    assert len(sequence.assumptions) == 2 and "20 images a second" in sequence.assumptions[0]
    assert not sequence.camera.calibrated
    (tmp_path / "shots" / "calibration.txt").write_text("# fx fy cx cy\n50 51 32 24\n")
    assert open_sequence(tmp_path / "shots").camera.calibrated


def test_video(tmp_path):
    path = str(tmp_path / "film.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    images = pictures(5)
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    got = list(open_sequence(path))
    assert [stamp for stamp, _ in got] == [i * 40_000_000 for i in range(5)]
    assert np.abs(got[3][1].astype(int) - images[3]).mean() < 8


@pytest.mark.parametrize("case", ["missing", "empty", "text", "broken image", "other size", "missing image",
                                  "bad list", "bad calibration"])
def test_errors_name_bad_input(tmp_path, case):
    folder = tmp_path / "sequence"
    write_folder(folder / "rgb", pictures(3))
    lines = [f"{i}.5 rgb/{i:03d}.png" for i in range(3)]
    named = {"missing": "nowhere", "empty": "nothing", "text": "text.txt", "broken image": "001.png",
             "other size": "001.png", "missing image": "009.png", "bad list": "rgb.txt, line 2",
             "bad calibration": "calibration.txt"}[case]
    target = folder
    if case in ("missing", "text"):
        target = tmp_path / named
    if case == "text":
        target.write_text("hello")
    if case == "empty":
        target = tmp_path / named
        target.mkdir()
    if case == "broken image":
        (folder / "rgb" / named).write_bytes(b"no image")
    if case == "other size":
        write_folder(folder / "rgb", [*pictures(1), *pictures(1, (32, 32))])
    if case == "missing image":
        lines[1] = f"1.5 rgb/{named}"
    if case == "bad list":
        lines[1] = "soon rgb/001.png"
    if case == "bad calibration":
        (folder / named).write_text("50 51\n")
    (folder / "rgb.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(SequenceError, match=named):
        list(open_sequence(target))
