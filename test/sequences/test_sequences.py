from __future__ import annotations

import cv2
import numpy as np
import pytest
from data_folder import recorded
from hypothesis import given
from hypothesis import strategies as st
from recordings import STAMP, TYPES, camera_info, header, pictures, raw_image, write_bag, write_folder, write_messages

from vggt_ros.sequences.image_list import SUFFIXES, natural_key
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import SequenceError


def test_recorded_folder():
    sequence = open_sequence(recorded("tum_fr1_xyz"))
    stamp, image = next(iter(sequence))
    assert len(sequence) == 399 and stamp == 1305031102175304000 and image.shape == (480, 640, 3)
    assert sequence.camera.distortion == (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)
    assert sequence.truth[1].shape == (397, 4, 4)
    stamp, depth = next(sequence.depths())
    assert stamp == 1305031102175304000 and 0.5 < np.nanmedian(depth) < 2 and np.isnan(depth).any()


@pytest.mark.parametrize(("readme", "unit", "assumed"), [
    ("Depth    16-bit mm, sparse", 1000, False), ("Depth  5000 units per metre", 5000, False),
    ("Depth: see the paper", 5000, True), (None, 5000, True)])
def test_the_depth_unit_is_read_from_the_readme_or_assumed(tmp_path, readme, unit, assumed):
    for name, line in (("rgb", "1.0 a.png"), ("depth", "1.0 d.png")):
        (tmp_path / f"{name}.txt").write_text(line + "\n")
    if readme:
        (tmp_path / "README.txt").write_text(readme)
    cv2.imwrite(str(tmp_path / "a.png"), np.full((60, 80), 90, np.uint8))
    cv2.imwrite(str(tmp_path / "d.png"), np.array([[0, 2000], [65535, 5000]], np.uint16))
    sequence = open_sequence(tmp_path)
    [(_, depth)] = sequence.depths()
    assert np.allclose(depth, [[np.nan, 2000 / unit], [np.nan, 5000 / unit]], equal_nan=True)
    assert any("5000 units per meter" in line for line in sequence.assumptions) == assumed


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


def test_depth_is_recognized_by_its_encoding_where_its_name_does_not_say_it(tmp_path):
    make = TYPES[2].types["sensor_msgs/msg/Image"]
    images = pictures(3)

    def depth(topic):
        return [(topic, STAMP + i * 10**8, make(header(STAMP + i * 10**8), 48, 64, "16UC1", 0, 128,
                                                image[..., 0].astype("<u2").view(np.uint8).ravel()))
                for i, image in enumerate(images)]

    color = [("/cam/image_raw", STAMP + i * 10**8, raw_image(STAMP + i * 10**8, image))
             for i, image in enumerate(images)]
    write_messages(tmp_path / "both", depth("/cam/aligned") + color)
    sequence = open_sequence(tmp_path / "both")
    assert sequence.image_topic == "/cam/image_raw"
    assert any("/cam/aligned" in line for line in sequence.assumptions)
    write_messages(tmp_path / "thermal", depth("/cam/thermal"))
    assert len(list(open_sequence(tmp_path / "thermal"))) == 3


def test_a_bag_without_images_names_what_it_has(tmp_path):
    write_messages(tmp_path / "info", [("/cam/camera_info", STAMP, camera_info(STAMP))])
    with pytest.raises(SequenceError, match=r"no topic with images.*/cam/camera_info \(sensor_msgs/msg/CameraInfo\)"):
        open_sequence(tmp_path / "info")


def test_a_calibration_for_another_size_is_named(tmp_path):
    write_folder(tmp_path / "folder", pictures(2))
    (tmp_path / "folder" / "calibration.txt").write_text("25 25 15.5 11.5\n")
    assert "calibration for about 32x24?" in open_sequence(tmp_path / "folder").assumptions[-1]
    stamped = [("/cam/image_raw", STAMP, raw_image(STAMP, pictures(1)[0])),
               ("/cam/camera_info", STAMP, camera_info(STAMP, k=[25, 0, 15.5, 0, 25, 11.5, 0, 0, 1]))]
    write_messages(tmp_path / "bag", stamped)
    assert "calibration for about 32x24?" in open_sequence(tmp_path / "bag").assumptions[-1]


def test_errors_name_an_invalid_calibration(tmp_path):
    write_bag(tmp_path / "nan", pictures(2), first=np.nan)
    with pytest.raises(SequenceError, match=r"/cam/camera_info.*NaN"):
        open_sequence(tmp_path / "nan")
    write_bag(tmp_path / "none", pictures(2), first=0.0)
    assert "/cam/camera_info: K[0] is 0" in open_sequence(tmp_path / "none").assumptions[0]
    write_bag(tmp_path / "binned", pictures(2), binning=2)
    with pytest.raises(SequenceError, match=r"/cam/camera_info.*64x48 pixels, the calibration is for 32x24"):
        open_sequence(tmp_path / "binned")
    assert not open_sequence(tmp_path / "binned", info_topic="none").camera.calibrated


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
    sequence = open_sequence(tmp_path / "cam")
    assert len(list(sequence)) == 2 and "no metadata.yaml, which `ros2 bag reindex` writes" in sequence.assumptions[0]


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


@pytest.mark.parametrize(("beside", "named"), [
    ("map.json", "it is a saved map, which `replay --load`"), ("film.MP4", "name the video itself, .*film.MP4"),
    ("rgb/0.png", "rgb has images"), ("desk/rgb.txt", "desk is a recording"),
    ("IMG_1.HEIC", "it has 1 .heic; convert them to JPEG")])
def test_what_is_meant_by_a_folder_without_images_is_named(tmp_path, beside, named):
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    (tmp_path / beside).write_bytes(b"")
    with pytest.raises(SequenceError, match=f"there are no images in it.*{named}"):
        open_sequence(tmp_path)


def test_the_list_of_a_folder_stands_for_the_folder(tmp_path):
    assert cv2.imwrite(str(tmp_path / "0.png"), np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "rgb.txt").write_text("# timestamp filename\n1.5 0.png\n")
    (tmp_path / "calibration.txt").write_text("50 50 31 23\n")
    sequence = open_sequence(tmp_path / "rgb.txt")
    assert [stamp for stamp, _ in sequence] == [1_500_000_000] and sequence.camera.intrinsics[0, 0] == 50


@pytest.mark.parametrize("name", ["groundtruth.txt", "film.mp4"])
def test_a_text_is_no_video(tmp_path, name):
    """OpenCV reads a text as a video of a terminal that shows it."""
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf# \xc2\xb5m\n" + 400 * b"1.0 0 0 0 0 0 0 1\n")
    with pytest.raises(SequenceError, match=f"{name}: a text file, not a recording; name a folder of images"):
        open_sequence(tmp_path / name)


def test_a_video_that_is_cut_off_is_used_up_to_there_and_named(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    for image in pictures(30):
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    whole = open_sequence(tmp_path / "film.avi")
    assert len(list(whole)) == 30
    assert not whole.omitted.lines
    data = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "film.avi").write_bytes(data[:data.index(b"movi") + (len(data) - data.index(b"movi")) // 2])
    cut = open_sequence(tmp_path / "film.avi")
    count = len(list(cut))
    assert 5 < count < 25
    assert f"after {count} images; its header says 30" in cut.omitted.lines[0]


@pytest.mark.parametrize(("case", "named"), [
    ("missing", "nowhere"), ("empty", "nothing: there are no images"), ("text", r"text\.txt"),
    ("bad list", r"rgb\.txt, line 2"), ("bad calibration", r"calibration\.txt: expected"),
    ("transposed", r"calibration\.txt.*principal point"), ("no image at all", r"000\.png: the data are no jpeg")])
def test_errors_name_bad_input(tmp_path, case, named):
    folder = tmp_path / "sequence"
    write_folder(folder / "rgb", pictures(3))
    lines = [f"{i}.5 rgb/{i:03d}.png" for i in range(3)]
    target = folder
    if case in ("missing", "text", "empty"):
        target = tmp_path / {"missing": "nowhere", "text": "text.txt", "empty": "nothing"}[case]
    if case == "text":
        target.write_text("hello")
    if case == "empty":
        target.mkdir()
    if case == "bad list":
        lines[1] = "soon rgb/001.png"
    if case == "bad calibration":
        (folder / "calibration.txt").write_text("50 51\n")
    if case == "transposed":
        (folder / "calibration.txt").write_text("50 51 -32 24\n")
    if case == "no image at all":
        for index in range(3):
            (folder / "rgb" / f"{index:03d}.png").write_bytes(b"no image")
    (folder / "rgb.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(SequenceError, match=named):
        list(open_sequence(target))


@pytest.mark.parametrize(("case", "named"), [
    ("damaged", "the data are no jpeg"), ("empty file", "0 bytes"), ("other size", "40x40 pixels"),
    ("missing", "no such file"), ("thin", "4x64 pixels are too thin")])
@pytest.mark.parametrize("row", [0, 4, 5])
def test_an_image_that_cannot_be_used_is_left_out_and_named(tmp_path, case, named, row):
    """Wherever in the sequence it is, all others are there."""
    folder, images = tmp_path / "sequence", pictures(6)
    write_folder(folder / "rgb", images)
    bad = folder / "rgb" / f"{row:03d}.png"
    content = {"damaged": b"no image", "empty file": b"", "missing": None,
               "other size": cv2.imencode(".png", np.zeros((40, 40, 3), np.uint8))[1].tobytes(),
               "thin": cv2.imencode(".png", np.zeros((64, 4, 3), np.uint8))[1].tobytes()}[case]
    if content is None:
        bad.unlink()
    else:
        bad.write_bytes(content)
    (folder / "rgb.txt").write_text("".join(f"{i}.5 rgb/{i:03d}.png\n" for i in range(6)))
    sequence = open_sequence(folder)
    for _ in range(2):  # counts are of one pass
        got = list(sequence)
        rest = [i for i in range(6) if i != row]
        assert [stamp for stamp, _ in got] == [i * 10**9 + 500_000_000 for i in rest]
        assert all(np.array_equal(image, images[i]) for (_, image), i in zip(got, rest, strict=True))
        assert sequence.omitted.count == 1
        (line,) = sequence.omitted.lines
        assert bad.name in line
        assert named in line


def test_every_other_size_is_named_with_the_number_of_its_images(tmp_path):
    for i in range(40):
        side = {1: 48, 2: 48, 3: 56, 4: 48}.get(i, 64 if i < 30 else 100 + i)
        cv2.imwrite(str(tmp_path / f"{i:02d}.png"), np.zeros((64, side, 3), np.uint8))
    sequence = open_sequence(tmp_path)
    assert len(list(sequence)) == 26
    (line,) = sequence.omitted.lines
    assert line.startswith("14 images left out, the first is 01.png: 48x64 pixels, most images have 64x64; 1 like")
    assert "1 like 03.png: 56x64" in line and "1 like 30.png: 130x64" in line and line.endswith("; and 8 others")


def test_images_of_all_usual_formats_are_read(tmp_path):
    (image,) = pictures(1)
    for suffix in SUFFIXES - {".pgm"}:
        kind = ".jpg" if suffix in (".jfif", ".mpo") else suffix  # JPEG by other names
        (tmp_path / f"a{suffix}").write_bytes(cv2.imencode(kind, image[..., ::-1])[1].tobytes())
    assert cv2.imwrite(str(tmp_path / "a.pgm"), image[..., 0])
    sequence = open_sequence(tmp_path)
    assert len(list(sequence)) == len(SUFFIXES)
    assert sequence.omitted.count == 0


def test_images_are_in_the_order_of_their_numbers(tmp_path):
    images = pictures(12)
    for index, image in enumerate(images, 1):
        cv2.imwrite(str(tmp_path / f"frame{index}_left.png"), image[..., ::-1])
    assert all(np.array_equal(image, mine) for (_, image), mine in zip(open_sequence(tmp_path), images, strict=True))


def test_names_that_are_times_are_in_the_order_of_time(tmp_path):
    images = pictures(4)
    for name, image in zip(("0.25", "0.5", "9.75", "10.125"), images, strict=True):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image[..., ::-1])
    assert all(np.array_equal(image, mine) for (_, image), mine in zip(open_sequence(tmp_path), images, strict=True))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 99)), min_size=2, max_size=20, unique=True),
       st.integers(1, 9))
def test_natural_order_is_that_of_the_numbers_however_they_are_padded(numbers, width):
    names = [f"a{first:0{width}d}_{second}.png" for first, second in numbers]
    assert sorted(names, key=natural_key) == [name for _, name in sorted(zip(numbers, names, strict=True))]


def test_hidden_files_are_no_images(tmp_path):
    write_folder(tmp_path, pictures(3))
    for index in range(3):
        (tmp_path / f"._{index:03d}.png").write_bytes(b"\0\5\x16\7")  # what macOS leaves on other disks
    assert len(list(open_sequence(tmp_path))) == 3


def test_images_of_formats_that_are_not_read_are_named(tmp_path):
    write_folder(tmp_path, pictures(3), ".jpg")
    for index in range(5):
        (tmp_path / f"IMG_{index}.HEIC").write_bytes(b"")
    sequence = open_sequence(tmp_path)
    assert len(list(sequence)) == 3
    assert any("5 files .heic are left out" in line for line in sequence.assumptions)


def test_sensor_depth_beside_the_images_is_left_out_and_named(tmp_path):
    write_folder(tmp_path, pictures(3), ".jpg")
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"depth{index:03d}.png"), np.full((48, 64), 1000 + index, np.uint16))
    sequence = open_sequence(tmp_path)
    assert len(list(sequence)) == 3
    assert any("3 images of 16-bit gray" in line and "depth000.png" in line for line in sequence.assumptions)


def test_a_camera_with_sixteen_bits_alone_is_no_depth(tmp_path):
    for index, image in enumerate(pictures(3)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image[..., 0].astype(np.uint16) * 16)
    got = [image for _, image in open_sequence(tmp_path)]
    assert len(got) == 3
    for image, mine in zip(got, pictures(3), strict=True):  # 12 bits fill the whole range
        assert np.abs(image[..., 0].astype(int) - mine[..., 0]).max() <= 1


def test_a_list_from_another_system(tmp_path):
    write_folder(tmp_path / "rgb", pictures(2))
    (tmp_path / "rgb.txt").write_bytes(b"\xef\xbb\xbf# timestamp filename\r\n0.5 rgb\\000.png\r\n1.5 rgb/001.png\r\n")
    assert [stamp for stamp, _ in open_sequence(tmp_path)] == [500_000_000, 1_500_000_000]


def test_a_folder_without_images_says_what_it_has(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.heic").write_bytes(b"x")
    with pytest.raises(SequenceError, match=r"no images in it.*3 \.heic"):
        open_sequence(tmp_path)


NANOSECONDS = 1403636579763555584


def test_a_video_whose_recording_was_cut_off_is_named(tmp_path):
    """An MP4 has its index at the end: the boxes `ftyp` and `mdat` are there, `moov` is not."""
    film = tmp_path / "film.mp4"
    film.write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0\0\x10\0mdat" + bytes(4088))
    with pytest.raises(SequenceError, match=r"film\.mp4: .*its index \(moov\) is missing"):
        open_sequence(film)


def test_a_compressed_file_of_a_bag_names_its_folder(tmp_path):
    (tmp_path / "bag_0.db3.zstd").write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(SequenceError, match=f"a compressed file of a bag; name its folder, {tmp_path}"):
        open_sequence(tmp_path / "bag_0.db3.zstd")


def write_images(folder, names):
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), np.full((48, 64, 3), 10 * i, np.uint8))


@pytest.mark.parametrize("opened", ["recording", "recording/mav0", "recording/mav0/cam0"])
def test_a_recording_of_eurocs_format_is_its_first_camera(opened, tmp_path):
    names = [f"{NANOSECONDS + 50_000_000 * i}.png" for i in range(3)]
    camera = tmp_path / "recording" / "mav0" / "cam0"
    write_images(camera / "data", names)
    camera.joinpath("data.csv").write_text(
        "#timestamp [ns],filename\r\n" + "".join(f"{name[:-4]},{name}\r\n" for name in names))
    camera.joinpath("sensor.yaml").write_text(
        "%YAML:1.0\ncamera_model: pinhole\nresolution: [64, 48]\nintrinsics: [50, 51, 32, 24]\n"
        "distortion_model: radial-tangential\ndistortion_coefficients: [0.0, 0.0, 0.0, 0.0]\n")
    sequence = open_sequence(tmp_path / opened)
    assert [stamp for stamp, _ in sequence] == [int(name[:-4]) for name in names]
    np.testing.assert_allclose(sequence.camera.intrinsics, [[50, 0, 32], [0, 51, 24], [0, 0, 1]])


@pytest.mark.parametrize(("text", "stamps"), [
    ("timestamp filename\n0.5 0.png\n1.5 1.png\n", [500_000_000, 1_500_000_000]),
    ("#timestamp,filename\n0.5,0.png\n1.5,1.png\n", [500_000_000, 1_500_000_000]),
    ("1.5 1.png\n0.5 0.png\n", [500_000_000, 1_500_000_000])])
def test_lists_of_other_forms_are_read_in_the_order_of_their_times(text, stamps, tmp_path):
    write_images(tmp_path / "folder", ["0.png", "1.png"])
    (tmp_path / "folder" / "rgb.txt").write_text(text)
    sequence = open_sequence(tmp_path / "folder")
    assert [(stamp, image[0, 0, 0]) for stamp, image in sequence] == list(zip(stamps, (0, 10), strict=True))
    assert any("order of the times" in line for line in sequence.assumptions) == text.startswith("1.5")


@pytest.mark.parametrize(("names", "stamps"), [
    (["1305031102.175304", "1305031102.243211"], [1305031102175304000, 1305031102243211000]),
    ([str(NANOSECONDS), str(NANOSECONDS + 5)], [NANOSECONDS, NANOSECONDS + 5]),
    (["1403636579763555", "1403636579813555"], [1403636579763555000, 1403636579813555000]),
    (["1403636579763", "1403636579813"], [1403636579763000000, 1403636579813000000]),
    (["000001", "000002"], [0, 100_000_000]), (["IMG_20240101_120000", "IMG_20240101_120001"], [0, 100_000_000])])
def test_times_in_the_names_of_images_are_taken_unless_a_rate_is_given(names, stamps, tmp_path):
    write_images(tmp_path / "folder", [f"{name}.png" for name in names])
    sequence = open_sequence(tmp_path / "folder")
    assert [stamp for stamp, _ in sequence] == stamps
    assert ("times in the names" in sequence.assumptions[0]) == (stamps[0] > 0)
    assert [stamp for stamp, _ in open_sequence(tmp_path / "folder", rate=2.0)] == [0, 500_000_000]


def test_times_in_other_units_are_named(tmp_path):
    write_images(tmp_path / "folder", ["0.png"])
    (tmp_path / "folder" / "rgb.txt").write_text("1305031102000 0.png\n")
    with pytest.raises(SequenceError, match=r"line 1.*too large for a time in seconds; give seconds"):
        open_sequence(tmp_path / "folder")
