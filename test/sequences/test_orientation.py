"""Photos that are stored turned: the same pictures as OpenCV shows, one camera, and what belongs to them as stored."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from exif import tagged
from recordings import pictures

from vggt_ros.sequences.image_header import read_header
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.orientation import turned


def write(folder, orientations, kind="jpg", images=None):
    """Write images as a phone that is held so stores them; return them as stored."""
    folder.mkdir(exist_ok=True)
    images = pictures(len(orientations)) if images is None else images
    for index, (image, orientation) in enumerate(zip(images, orientations, strict=True)):
        (folder / f"{index}.{kind}").write_bytes(tagged(kind, image, orientation))
    return images


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_images_are_turned_as_opencv_turns_them(tmp_path, kind, orientation):
    write(tmp_path, [orientation] * 3, kind)
    sequence = open_sequence(tmp_path)
    got = list(sequence)
    assert len(got) == 3
    assert sequence.omitted.count == 0
    for index, (_, image) in enumerate(got):
        shown = cv2.imread(str(tmp_path / f"{index}.{kind}"), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.array_equal(image, shown)
    assert (sequence.camera.height, sequence.camera.width) == got[0][1].shape[:2]
    said = any("EXIF" in line for line in sequence.assumptions)
    assert said == (orientation != 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_by_its_decoder_and_its_header_says_its_size(tmp_path, orientation):
    image = pictures(1)[0]
    data = bytearray(cv2.imencode(".tiff", image[..., ::-1])[1].tobytes())
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start:start + 2], "little")
    entries = [bytes(data[start + 2 + 12 * i:start + 14 + 12 * i]) for i in range(count)]
    entries = [entry for entry in entries if entry[:2] != b"\x12\x01"]
    entries.append(b"\x12\x01\3\0\1\0\0\0" + bytes([orientation, 0, 0, 0]))
    entries.sort(key=lambda entry: int.from_bytes(entry[:2], "little"))
    directory = len(entries).to_bytes(2, "little") + b"".join(entries) + bytes(4)
    data[4:8] = len(data).to_bytes(4, "little")
    (tmp_path / "0.tiff").write_bytes(bytes(data) + directory)
    ((_, got),) = open_sequence(tmp_path)
    assert np.array_equal(got, turned(image, orientation))


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_orders_of_bytes(order):
    assert read_header(tagged("jpg", pictures(1)[0], 6, order)).orientation == 6


def test_damaged_exif_costs_no_image():
    data = tagged("jpg", pictures(1)[0], 6)
    for cut in (b"II*\0\xff\xff\xff\xff", b"II*\0" + bytes(4), b"no", b"II*\0\x08\0\0\0\xff\xff"):
        changed = data[:12] + cut.ljust(26, b"\0") + data[38:]
        header = read_header(changed)
        assert (header.width, header.orientation) == (64, 1)


def test_photos_of_one_camera_stay_those_of_one_camera(tmp_path):
    """Held upright four times, lying twice: all have one size, and the same pixel of the sensor stays where it is."""
    images = write(tmp_path, [6, 6, 1, 6, 1, 6], "png")
    sequence = open_sequence(tmp_path)
    got = [image for _, image in sequence]
    assert sequence.omitted.count == 0
    assert all(np.array_equal(image, turned(stored, 6)) for image, stored in zip(got, images, strict=True))


def test_a_photo_that_was_stored_anew_as_shown_belongs_to_them(tmp_path):
    images = write(tmp_path, [6, 6, 6, 6], "png")
    (tmp_path / "2.png").write_bytes(tagged("png", turned(images[2], 6), 1))
    sequence = open_sequence(tmp_path)
    assert all(np.array_equal(image, turned(stored, 6)) for (_, image), stored in zip(sequence, images, strict=True))


@pytest.mark.parametrize(("beside", "text"), [
    ("groundtruth.txt", "0 0 0 0 0 0 0 1\n"), ("depth.txt", "0 depth/0.png\n"),
    ("calibration.txt", "50 50 31.5 23.5\n")])
def test_what_belongs_to_images_as_stored_leaves_them_so_and_that_is_said(tmp_path, beside, text):
    images = write(tmp_path, [6, 6, 6], "png")
    (tmp_path / beside).write_text(text)
    sequence = open_sequence(tmp_path)
    assert all(np.array_equal(image, mine) for (_, image), mine in zip(sequence, images, strict=True))
    assert any("as they are stored" in line and beside in line for line in sequence.assumptions)


def test_a_calibration_of_photos_as_shown_is_recognized_by_its_principal_point(tmp_path):
    images = write(tmp_path, [6, 6, 6], "png")
    (tmp_path / "calibration.txt").write_text("50 50 23 32\n")
    sequence = open_sequence(tmp_path)
    assert all(np.array_equal(image, turned(mine, 6)) for (_, image), mine in zip(sequence, images, strict=True))
    assert (sequence.camera.width, sequence.camera.height, sequence.camera.intrinsics[0, 2]) == (48, 64, 23)
    assert any("principal point" in line for line in sequence.assumptions)
