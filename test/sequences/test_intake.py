"""What the node and `replay` do with images and calibrations: one module, checked by itself."""

from __future__ import annotations

import contextlib
import struct
import time
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from recordings import STAMP, camera_info, pictures, raw_image

from vggt_ros.geometry.calibration import doubt
from vggt_ros.geometry.camera import Camera, CameraError, Rectifier
from vggt_ros.ros.conversions.images import decode_first
from vggt_ros.sequences.encodings import ImageError
from vggt_ros.sequences.gray_range import GrayRange
from vggt_ros.sequences.image_header import MAX_SCANS, read_header
from vggt_ros.sequences.intake import Intake, darkness

RNG = np.random.default_rng(5)
PICTURE = cv2.resize(RNG.integers(0, 256, (12, 16, 3), np.uint8), (320, 240))


def compressed(data, kind="jpeg"):
    return SimpleNamespace(format=kind, data=np.frombuffer(data, np.uint8))


def encoded(kind, image=PICTURE, *options):
    return cv2.imencode(f".{kind}", image, list(options))[1].tobytes()


@pytest.mark.parametrize("size", [(37, 23), (640, 480), (300, 33), (1, 70)])
@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "tiff", "webp", "ppm", "pgm", "pbm"])
def test_the_header_says_what_the_decoder_finds(kind, size):
    image = RNG.integers(0, 256, (size[1], size[0], 3), np.uint8)
    data = encoded(kind, image[..., 0] if kind in ("pgm", "pbm") else image)
    header = read_header(data)
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (header.height, header.width) == found.shape[:2]
    assert header.channels == (1 if kind in ("pgm", "pbm") else 3)
    assert header.bits == 8


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm"])
def test_the_header_of_gray_with_more_bits(kind):
    header = read_header(encoded(kind, RNG.integers(0, 65536, (33, 65)).astype(np.uint16)))
    assert (header.bits, header.channels, header.width, header.height) == (16, 1, 65, 33)


def test_headers_of_progressive_and_of_described_jpegs():
    """Scans, and segments of EXIF with a thumbnail that has a frame header of its own, come before and after."""
    assert read_header(encoded("jpg", PICTURE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)).width == 320
    thumbnail = encoded("jpg", PICTURE[:64, :96])
    exif = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    data = encoded("jpg")
    assert (read_header(data[:2] + exif + data[2:]).width, read_header(thumbnail).width) == (320, 96)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0\0" * 3, b"\x89PNG\r\n\x1a\n",
                                  b"\x89PNG\r\n\x1a\n" + bytes(40), b"BM", b"II*\0" + bytes(4),
                                  b"II*\0\xff\xff\xff\xff", b"RIFF0000WEBPVP8X", b"P5\n", b"P5\n1e9 4\n255\n",
                                  b"GIF89a", bytes(100)])
def test_a_damaged_header_is_an_image_error(data):
    with pytest.raises(ImageError):
        read_header(data)
    with pytest.raises(ImageError):
        Intake().decode(compressed(data))


def test_a_format_that_is_not_read_is_named_with_those_that_are():
    with pytest.raises(ImageError, match=r"format 'h264' cannot be decoded.*jpeg and png are supported"):
        Intake().decode(compressed(b"\0\0\0\1\x67" + bytes(100), "h264"))


def test_random_bytes_never_raise_anything_else():
    """All kinds, with up to three bytes changed and the end cut off."""
    good = [encoded(kind, PICTURE[:40, :48]) for kind in ("jpg", "png", "bmp", "tiff", "webp", "ppm")]
    for trial in range(1500):
        data = bytearray(good[trial % len(good)])
        for _ in range(RNG.integers(0, 4)):
            data[RNG.integers(0, min(len(data), 60))] = RNG.integers(0, 256)
        with contextlib.suppress(ImageError):
            read_header(bytes(data[:RNG.integers(0, len(data) + 1)]))


def huge_jpeg(width, height):
    """A JPEG of about 700 bytes whose frame header declares another size."""
    data = bytearray(encoded("jpg", np.zeros((16, 16, 3), np.uint8)))
    at = data.index(b"\xff\xc0")
    data[at + 5:at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def huge_png(width, height):
    data = bytearray(encoded("png", np.zeros((16, 16, 3), np.uint8)))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.parametrize("make", [huge_jpeg, huge_png])
def test_a_small_message_that_declares_gigapixels_is_refused_undecoded(make):
    began = time.process_time()
    with pytest.raises(ImageError, match="too many"):
        Intake().decode(compressed(make(65500, 65500)))
    intake = Intake()
    intake.add_info(camera_info(STAMP))
    with pytest.raises(CameraError, match="8000x6000 pixels, the calibration is for 64x48"):
        intake.decode(compressed(make(8000, 6000)))
    other = Intake()
    other.decode(raw_image(STAMP, PICTURE))
    with pytest.raises(ImageError, match="too many"):
        other.decode(compressed(make(8000, 6000)))
    assert time.process_time() - began < 0.5


def test_a_jpeg_with_thousands_of_scans_is_refused_undecoded():
    data = encoded("jpg", PICTURE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    at = data.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="scans"):
        Intake().decode(compressed(data[:at] + data[at:-2] * MAX_SCANS + data[-2:]))


def test_messages_are_jpeg_or_png_files_are_of_any_kind():
    data = encoded("tiff")
    with pytest.raises(ImageError, match="jpeg and png are supported"):
        Intake().decode(compressed(data))
    assert np.array_equal(Intake().decode_file(data)[..., ::-1], PICTURE)


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (31, 31), (40, 500)])
def test_an_image_that_is_too_thin_is_refused(size):
    with pytest.raises(ImageError, match="too thin"):
        Intake().decode(raw_image(STAMP, np.zeros((size[1], size[0], 3), np.uint8)))


# More than eight bits.

def gray16(values):
    return SimpleNamespace(encoding="mono16", height=len(values), width=values.shape[1], step=2 * values.shape[1],
                           is_bigendian=0, data=np.ascontiguousarray(values, "<u2").tobytes())


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_the_bits_of_a_sensor_fill_the_range(bits):
    values = PICTURE[..., 0].astype(np.uint16) << (bits - 8)
    values[0, 0] = 2**bits - 1
    image = Intake().decode(gray16(values))
    assert np.array_equal(image[1:, :, 0], PICTURE[1:, :, 0])


def test_the_range_is_held_fixed():
    """A scene point keeps its gray value when a lamp goes on elsewhere, and when it goes off again."""
    intake, scene = Intake(), np.full((48, 64), 1000, np.uint16)
    scene[:24] = 3000
    first = intake.decode(gray16(scene))
    lamp = scene.copy()
    lamp[:4, :4] = 4095
    dark = scene // 3
    for other, expected in ((lamp, first[20, 20, 0]), (dark, first[20, 20, 0] // 3), (scene, first[20, 20, 0])):
        assert abs(int(intake.decode(gray16(other))[20, 20, 0]) - int(expected)) <= 1


def test_values_beyond_the_range_widen_it_once():
    gray = GrayRange()
    gray(np.full((40, 40), 900, np.uint16))
    assert (gray.low, gray.high, gray.widened) == (0, 1023, 0)
    for value in (3900, 3000, 4095, 900):
        gray(np.full((40, 40), value, np.uint16))
    assert (gray.low, gray.high, gray.widened) == (0, 4095, 1)
    spots = np.full((40, 40), 900, np.uint16)
    spots[0, :4] = 65535
    gray(spots)
    assert gray.widened == 1, "a few dead pixels do not widen it"


def test_a_thermal_camera_uses_its_narrow_band():
    """29,000 to 31,000 hundredths of a kelvin: the high byte has eight different values."""
    columns, rows = np.meshgrid(np.arange(64), np.arange(48))
    values = (29000 + 2000 * columns / 63 + 10 * (rows % 2)).astype(np.uint16)
    image = GrayRange()(values)
    assert image.max() - image.min() > 110
    warmer = (values + 500).astype(np.uint16)
    gray = GrayRange()
    gray(values)
    assert gray(warmer).max() < 255, "a margin is left on both sides"


def test_a_float_image_of_255_is_not_white():
    values = (PICTURE[..., 0]).astype(np.float32)
    assert np.array_equal(GrayRange()(values), PICTURE[..., 0])
    unit = GrayRange()
    assert np.array_equal(unit(values / 255), PICTURE[..., 0])


@pytest.mark.parametrize(("image", "words"), [
    (np.zeros((48, 64, 3), np.uint8), "all black"), (np.full((48, 64, 3), 15, np.uint8), "dark"),
    (PICTURE, ""), (PICTURE // 4, "")])
def test_darkness_is_named(image, words):
    assert words in darkness(image)
    assert bool(words) == bool(darkness(image))


# Calibration.

def test_a_calibration_for_another_size_does_not_replace_the_one_that_fits():
    """Two drivers, or two resolutions, on one topic."""
    intake = Intake()
    small, large = camera_info(STAMP), camera_info(STAMP, (128, 96), k=[100, 0, 63, 0, 102, 47, 0, 0, 1])
    for info in (small, large, small, large):
        intake.add_info(info)
        assert intake.camera(64, 48).intrinsics[0, 0] == 50
    assert intake.camera(128, 96).intrinsics[0, 0] == 100


def test_a_wrong_calibration_does_not_replace_a_right_one_and_is_named_until_one_comes():
    intake = Intake()
    assert intake.add_info(camera_info(STAMP))
    assert not intake.add_info(camera_info(STAMP, k=np.full(9, np.nan)))
    assert "NaN" in intake.problem
    assert intake.camera(64, 48).intrinsics[0, 0] == 50
    assert not intake.add_info(camera_info(STAMP)), "the same as before"
    assert not intake.problem
    assert intake.add_info(camera_info(STAMP, k=[60, 0, 31, 0, 60, 23, 0, 0, 1]))


def test_images_of_a_wrong_calibration_are_refused_not_taken_as_those_of_a_pinhole():
    intake = Intake()
    intake.add_info(camera_info(STAMP, distortion_model="equidistant", d=[0.1, 0.2, 0.3, 0.4, 0.5]))
    for _ in range(2):
        with pytest.raises(CameraError, match="'equidistant' with 5 coefficients"):
            intake.decode(raw_image(STAMP, pictures(1)[0]))
    assert intake.add_info(camera_info(STAMP))
    assert intake.decode(raw_image(STAMP, pictures(1)[0])).shape == (48, 64, 3)


@pytest.mark.parametrize("name", ["fisheye", "KANNALA_BRANDT4", "equidistant"])
def test_other_names_of_the_fisheye_are_known(name):
    intake = Intake()
    assert intake.add_info(camera_info(STAMP, distortion_model=name, d=[0.01, 0.02, 0.0, 0.0]))
    assert intake.camera(64, 48).model == "equidistant"


@pytest.mark.parametrize(("name", "count"), [("Plumb Bob", 5), ("PLUMB-BOB", 4), ("brown_conrady", 5),
                                             ("Brown Conrady", 4), ("rational_polynomial", 5)])
def test_other_spellings_of_the_usual_model_are_known(name, count):
    intake = Intake()
    assert intake.add_info(camera_info(STAMP, distortion_model=name, d=[0.01, 0.02, 0.0, 0.0, 0.003][:count]))
    assert (intake.camera(64, 48).model, len(intake.camera(64, 48).distortion)) == ("plumb_bob", count)


@pytest.mark.parametrize(("data", "words"), [
    (b"\0\0\0\x18ftypheic", "HEIC"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"\n<!doctype html>", "a web page"), (b"\0\0\0\1\x67", "a video stream")])
def test_what_is_there_instead_of_an_image_is_named(data, words):
    with pytest.raises(ImageError, match=f"no jpeg.*{words}"):
        read_header(data + bytes(100))


def test_a_region_of_interest_may_lie_beside_the_principal_point():
    from rosbags.typesys import Stores, get_typestore
    roi = get_typestore(Stores.ROS2_JAZZY).types["sensor_msgs/msg/RegionOfInterest"](320, 0, 240, 320, False)
    intake = Intake()
    intake.add_info(camera_info(STAMP, (640, 480), k=[500, 0, 320, 0, 500, 240, 0, 0, 1], roi=roi, d=np.zeros(5)))
    assert intake.camera(320, 240).intrinsics[0, 2] == 0


@pytest.mark.parametrize(("changes", "words"), [
    ({"k": [500, 0, 0, 0, 500, 0, 0, 0, 1]}, "principal point in K is 0, 0: it is not set"),
    ({"roi": (320, 240, 480, 640, False)}, "640x480 from 320, 240 on, reaches beyond 640x480"),
    ({"roi": (0, 400, 100, 0, False)}, "reaches beyond 640x480")])
def test_calibrations_that_cannot_be_right_are_refused(changes, words):
    from rosbags.typesys import Stores, get_typestore
    region = get_typestore(Stores.ROS2_JAZZY).types["sensor_msgs/msg/RegionOfInterest"]
    changes = {name: region(*value) if name == "roi" else value for name, value in changes.items()}
    intake = Intake()
    assert not intake.add_info(camera_info(STAMP, (640, 480), **{"k": [500, 0, 320, 0, 500, 240, 0, 0, 1], **changes}))
    assert words in intake.problem


@pytest.mark.parametrize("scale", [0.5, 0.66, 1.33, 1.9])
def test_a_matrix_for_images_of_another_size_is_odd(scale):
    """And that of the right size, or of a lens that is shifted along one side, is not."""
    for factor, shift, odd in ((scale, 0, True), (1, 0, False), (1, 140, False)):
        intake = Intake()
        matrix = np.diag([factor, factor, 1]) @ [[500, 0, 320 + shift], [0, 500, 240], [0, 0, 1]]
        assert intake.add_info(camera_info(STAMP, (640, 480), k=matrix.ravel(), d=np.zeros(5)))
        assert intake.camera(640, 480).calibrated
        assert bool(intake.doubt) == odd
    assert "319.5, 239.5 is far from the center of images of 1280x960: is the calibration for about 640x480?" in doubt(
        np.array([[500, 0, 319.5], [0, 500, 239.5], [0, 0, 1]]), (1280, 960))


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_mosaic_that_was_compressed_as_it_is_becomes_a_color_image(kind, pattern):
    """As image_transport compresses raw images; what it converted before is none any more."""
    mosaic = np.zeros((240, 320), np.uint8)
    for row, column in np.ndindex(2, 2):
        mosaic[row::2, column::2] = PICTURE[row::2, column::2, "bgr".index(pattern[2 * row + column])]
    quality = [cv2.IMWRITE_JPEG_QUALITY, 98] if kind == "jpeg" else []
    message = compressed(encoded("jpg" if kind == "jpeg" else kind, mosaic, *quality),
                         f"bayer_{pattern}8; {kind} compressed ")
    image = Intake().decode(message)
    assert np.abs(image[4:-4, 4:-4, ::-1].astype(int) - PICTURE[4:-4, 4:-4]).mean() < 3
    intake = Intake()
    intake.decode(message)
    assert np.array_equal(decode_first(message, intake, Rectifier(Camera.assumed(320, 240, 60.0), (160, 120))).color(),
                          image)
    message.format += "mono8"
    assert np.ptp(Intake().decode(message), axis=2).max() == 0


@pytest.mark.parametrize(("size", "reduction"), [((1280, 960), 1), ((1600, 1200), 2), ((3200, 2400), 4)])
@pytest.mark.parametrize("kind", ["jpg", "png", "raw"])
def test_a_large_image_comes_in_gray_first_and_its_color_shows_the_same(kind, size, reduction):
    """After the first image, from which the size is known; a small one always comes in color."""
    image = cv2.resize(PICTURE, size)
    message = raw_image(STAMP, image) if kind == "raw" else compressed(encoded(kind, image))
    intake, rectifier = Intake(), Rectifier(Camera.assumed(*size, 60.0), (800, 600))
    first = decode_first(message, intake, None)
    assert first.color is None and first.pixels.shape == (size[1], size[0], 3) and first.size == size
    assert decode_first(message, intake, Rectifier(Camera.assumed(*size, 60.0), size)).color is None
    found = decode_first(message, intake, rectifier)
    n = reduction if kind == "jpg" else 1
    assert found.size == size and found.pixels.shape == (size[1] // n, size[0] // n) and found.color is not None
    gray, color = rectifier(found.pixels), rectifier(found.color())
    assert np.abs(cv2.cvtColor(color, cv2.COLOR_RGB2GRAY).astype(int) - gray).max() <= 3
    assert np.abs(color.astype(int) - rectifier(first.pixels)).mean() < 1
    with pytest.raises(ImageError):
        decode_first(compressed(b""), intake, rectifier)


def test_a_jpeg_of_another_size_is_not_reduced():
    rectifier = Rectifier(Camera.assumed(1600, 1200, 60.0), (800, 600))
    found = decode_first(compressed(encoded("jpg", cv2.resize(PICTURE, (1280, 960)))), Intake(), rectifier)
    assert found.size == (1280, 960) == found.pixels.shape[1::-1]
