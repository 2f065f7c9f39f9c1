"""Decoding of image messages: every encoding against an independent conversion, with padding and byte order."""

import array

import cv2
import numpy as np
import pytest

pytest.importorskip("sensor_msgs.msg", reason="needs the ROS message packages")
from sensor_msgs.msg import CompressedImage, Image

from vggt_ros.sequences import encodings
from vggt_ros.sequences.encodings import ENCODINGS, ImageError
from vggt_ros.sequences.intake import Intake

HEIGHT, WIDTH = 24, 36
RNG = np.random.default_rng(3)
COLOR = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GRAY = COLOR[..., 0]


def decode(image):
    return encodings.decode(image.encoding, image.height, image.width, image.step, bool(image.is_bigendian), image.data)


def decode_compressed(image):
    return encodings.decode_compressed(image.format, image.data)


def message(encoding, rows, padding=0, big=False, height=HEIGHT):
    """An Image whose rows, an array of any type, are padded with garbage."""
    raw = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    padded = np.concatenate([raw, RNG.integers(0, 256, (len(raw), padding), np.uint8)], 1)
    return Image(height=height, width=WIDTH, encoding=encoding, is_bigendian=int(big), step=padded.shape[1],
                 data=array.array("B", padded.tobytes()))


def gray3(gray):
    return np.repeat(gray[..., None], 3, axis=2)


ALPHA = np.concatenate([COLOR, GRAY[..., None]], 2)
SIXTEEN = RNG.integers(0, 65536, (HEIGHT, WIDTH), np.uint16)
DEEP = RNG.integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)
DEEP8 = (DEEP // 256).astype(np.uint8)
REAL = RNG.random((HEIGHT, WIDTH), np.float32)
EXACT = {
    "rgb8": (COLOR, COLOR), "bgr8": (COLOR[..., ::-1], COLOR), "8UC3": (COLOR[..., ::-1], COLOR),
    "rgba8": (ALPHA, COLOR), "bgra8": (ALPHA[..., [2, 1, 0, 3]], COLOR),
    "8UC4": (ALPHA[..., [2, 1, 0, 3]], COLOR),
    "mono8": (GRAY, gray3(GRAY)), "8UC1": (GRAY, gray3(GRAY)),
    "mono16": (SIXTEEN, gray3((SIXTEEN // 256).astype(np.uint8))),
    "16UC1": (SIXTEEN, gray3((SIXTEEN // 256).astype(np.uint8))),
    "rgb16": (DEEP, DEEP8), "bgr16": (DEEP[..., ::-1], DEEP8),
    "16UC3": (DEEP[..., ::-1], DEEP8), "rgba16": (np.dstack([DEEP, SIXTEEN]), DEEP8),
    "bgra16": (np.dstack([DEEP[..., ::-1], SIXTEEN]), DEEP8),
    "32FC1": (REAL, gray3(np.rint(REAL * 255).astype(np.uint8))),
}


@pytest.mark.parametrize("padding", [0, 12])
@pytest.mark.parametrize("encoding", EXACT)
def test_exact_encodings(encoding, padding):
    rows, expected = EXACT[encoding]
    decoded = decode(message(encoding, rows, padding))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


def test_capitals_in_an_encoding_mean_nothing():
    np.testing.assert_array_equal(decode(message("RGB8", COLOR)), COLOR)
    np.testing.assert_array_equal(decode(message("8uc1", GRAY)), gray3(GRAY))


def test_a_step_that_was_left_out_is_that_of_the_rows():
    image = message("rgb8", COLOR)
    image.step = 0
    np.testing.assert_array_equal(decode(image), COLOR)
    image.data = image.data[:-1]
    with pytest.raises(ImageError, match="step 0 is too short"):
        decode(image)


@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "32FC1", "rgb16", "bgr16"])
def test_big_endian(encoding):
    rows, expected = EXACT[encoding]
    np.testing.assert_array_equal(decode(message(encoding, rows.astype(rows.dtype.newbyteorder(">")), big=True)),
                                  expected)


def smooth():
    """An image without edges, so that interpolated color is near the truth."""
    columns, rows = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    return np.stack([60 + 120 * columns, 60 + 120 * rows, 180 - 100 * columns], 2).astype(np.uint8)


@pytest.mark.parametrize(("encoding", "order"), [("bayer_rggb8", "RGGB"), ("bayer_bggr8", "BGGR"),
                                                 ("bayer_gbrg8", "GBRG"), ("bayer_grbg8", "GRBG")])
def test_bayer_patterns_are_named_by_their_first_pixels(encoding, order):
    picture = smooth()
    mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
    for place, letter in enumerate(order):
        row, column = divmod(place, 2)
        mosaic[row::2, column::2] = picture[row::2, column::2, "RGB".index(letter)]
    deep = mosaic.astype(np.uint16) * 257  # the same with 16 bits
    deep[0, 0] = 65535
    for name, rows in ((encoding, mosaic), (encoding.replace("8", "16"), deep)):
        error = np.abs(decode(message(name, rows, padding=4)).astype(int) - picture)[2:-2, 2:-2]
        assert error.max() <= 12


def to_yuv(rgb):
    """BT.601, limited range."""
    red, green, blue = (rgb[..., i].astype(float) for i in range(3))
    luma = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    return (luma, 128 + (-37.797 * red - 74.203 * green + 112 * blue) / 255,
            128 + (112 * red - 93.786 * green - 18.214 * blue) / 255)


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"])
def test_yuv(encoding):
    picture = smooth()
    luma, u, v = to_yuv(picture)
    rows = np.empty((HEIGHT, WIDTH, 2))
    if encoding in ("nv12", "nv21"):
        chroma = np.stack([u[::2, ::2], v[::2, ::2]][:: 1 if encoding == "nv12" else -1], 2)
        rows = np.concatenate([luma, chroma.reshape(HEIGHT // 2, WIDTH)])
    else:
        first = 1 if encoding in ("yuv422", "uyvy") else 0
        rows[..., first] = luma
        rows[:, ::2, 1 - first], rows[:, 1::2, 1 - first] = u[:, ::2], v[:, ::2]
    decoded = decode(message(encoding, np.rint(rows).astype(np.uint8).reshape(len(rows), -1), padding=8))
    assert np.abs(decoded.astype(int) - picture)[1:-1, 1:-1].max() <= 8


def test_every_listed_encoding_is_tested():
    tested = {*EXACT, "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8", "yuv422", "uyvy", "yuv422_yuy2",
              "yuyv", "nv12", "nv21", "bayer_rggb16", "bayer_bggr16", "bayer_gbrg16", "bayer_grbg16"}
    assert tested == set(ENCODINGS)


def test_the_last_row_may_come_without_its_padding():
    whole = message("mono8", GRAY, padding=12)
    whole.data = whole.data[:-12]
    np.testing.assert_array_equal(decode(whole)[..., 0], GRAY)


def broken(**changes):
    image = message("rgb8", COLOR)
    for name, value in changes.items():
        setattr(image, name, value)
    return image


@pytest.mark.parametrize(("image", "words"), [
    (broken(encoding="rgb8x"), "rgb8x"),
    (broken(encoding=""), "encoding ''"),
    (broken(step=WIDTH), "step 36 is too short"),
    (broken(data=array.array("B", bytes(100))), "100 bytes are too few"),
    (broken(data=array.array("B")), "empty"),
    (broken(width=0), "empty"),
    (Image(), "encoding ''"),
])
def test_errors_say_why_an_image_cannot_be_decoded(image, words):
    with pytest.raises(ImageError, match=words):
        decode(image)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_compressed(kind):
    picture = smooth()
    data = cv2.imencode(f".{kind}", picture[..., ::-1])[1].tobytes()
    decoded = decode_compressed(CompressedImage(format=f"rgb8; {kind} compressed bgr8", data=array.array("B", data)))
    assert np.abs(decoded.astype(int) - picture).max() <= (0 if kind == "png" else 12)


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", "int32", "ascii"])
def test_gray_values_of_other_types(kind, caplog):
    """As of thermal and scientific cameras; none of these files is damaged."""
    gray = np.ascontiguousarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1)))
    if kind == "ascii":
        data = b"P2\n# a comment\n64 48\n255\n" + b"\n".join(" ".join(map(str, row)).encode() for row in gray.tolist())
    else:
        data = cv2.imencode(".tiff", gray.astype(kind))[1].tobytes()
    decoded = Intake().decode_file(data, f"image of {kind}")
    np.testing.assert_array_equal(decoded, np.dstack([gray] * 3))
    assert "damaged" not in caplog.text


@pytest.mark.parametrize("data", [b"", b"not an image at all", bytes(200)])
def test_errors_say_why_a_compressed_image_cannot_be_decoded(data):
    with pytest.raises(ImageError, match=r"empty|cannot be decoded"):
        decode_compressed(CompressedImage(format="jpeg", data=array.array("B", data)))
