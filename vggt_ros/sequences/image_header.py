"""The size of an encoded image, read from its header, so that it is known before the image is decoded.

A few hundred bytes of JPEG may declare gigapixels; a decoder allocates all of them. Sources of the layouts: JPEG, ITU-T
T.81 B.2; PNG, ISO/IEC 15948 11.2.2; BMP, the Windows SDK's BITMAPINFOHEADER; TIFF 6.0, section 2; WebP, RFC 9649; PNM,
the netpbm manual; the orientation, CIPA DC-008 (EXIF 2.3), 4.6.4.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from vggt_ros.sequences.encodings import ImageError

MAX_SCANS = 200
"""Most scans of a JPEG: progressive ones have about ten, and each costs a pass over the whole image."""
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}  # by color type, without alpha


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an encoded image declares.

    Attributes:
        kind: `jpeg`, `png`, `bmp`, `tiff`, `webp` or `pnm`.
        width, height: pixels, as `encodings.decode_compressed` returns them: an orientation of EXIF is not applied.
        bits: of a channel.
        channels: without alpha; 1 is gray.
        orientation: of EXIF, 1 to 8, 1 if the image is stored as it is shown; see `orientation`.

    """

    kind: str
    width: int
    height: int
    bits: int = 8
    channels: int = 3
    orientation: int = 1


def read_header(data: bytes) -> ImageHeader:
    """Return the header of an encoded image, of which `data` is all or the beginning.

    Raises:
        ImageError: not one of the kinds above, or the header is incomplete.

    """
    try:
        for magic, read in _READERS:
            if magic.match(data):
                return read(data)
    except (struct.error, IndexError, ValueError) as error:
        raise ImageError(f"the header of the image is damaged ({error})") from error
    other = next((f"; they are {what}" for magic, what in _OTHERS if magic.match(data)), "")
    raise ImageError(f"the data are no jpeg, png, bmp, tiff, webp or pnm{other}")


def _jpeg(data: bytes) -> ImageHeader:
    """Read the first frame header (SOF), and count the scans behind it."""
    at, orientation = 2, 0
    while True:
        marker, length = struct.unpack_from(">xBH", data, at)
        if data[at] != 0xFF:
            raise ValueError("a marker of the JPEG is missing")
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _START_OF_FRAME:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            if (scans := data.count(b"\xff\xda", at)) > MAX_SCANS:
                raise ValueError(f"{scans} scans")
            return ImageHeader("jpeg", width, height, bits, channels, orientation or 1)
        elif marker in (0xD9, 0xDA):
            raise ValueError("the JPEG has no frame header")
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a length
            at += 2
        else:
            if marker == 0xE1 and data[at + 4:at + 10] == b"Exif\0\0":
                orientation = orientation or _orientation(data[at + 10:at + 2 + length])
            at += 2 + length


def _png(data: bytes) -> ImageHeader:
    if data[12:16] != b"IHDR":
        raise ValueError("the PNG does not begin with IHDR")
    width, height, bits, color = struct.unpack_from(">IIBB", data, 16)
    exif = data.partition(b"IDAT")[0].partition(b"eXIf")[2]
    return ImageHeader("png", width, height, bits, _PNG_CHANNELS.get(color, 3), _orientation(exif))


def _bmp(data: bytes) -> ImageHeader:
    size = struct.unpack_from("<I", data, 14)[0]
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
    return ImageHeader("bmp", abs(width), abs(height), 8, 1 if bits == 1 else 3)


def _tiff(data: bytes) -> ImageHeader:
    """Read the first directory; the decoder applies the orientation of a TIFF by itself."""
    tags = {258: 1, 277: 1, 274: 1, **_tiff_tags(data, (256, 257, 258, 274, 277))}
    if not {256, 257} <= tags.keys():
        raise ValueError("the TIFF states no size")
    width, height = (tags[257], tags[256]) if 5 <= tags[274] <= 8 else (tags[256], tags[257])
    return ImageHeader("tiff", width, height, tags[258], min(tags[277], 3))


def _tiff_tags(data: bytes, wanted: tuple[int, ...]) -> dict[int, int]:
    """Return values of the first directory of a TIFF, which EXIF is, too.

    Width, height, bits, orientation and channels are the tags 256, 257, 258, 274 and 277.
    """
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    tags = {}
    for index in range(struct.unpack_from(f"{order}H", data, start)[0]):
        at = start + 2 + 12 * index
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, at)
        if tag in wanted:
            layout = {1: "B", 3: "H", 4: "I"}[kind] if kind in (1, 3, 4) else "I"
            if count * struct.calcsize(layout) > 4:  # not in the entry, but where it points
                at = struct.unpack_from(f"{order}I", data, at + 8)[0] - 8
            tags[tag] = struct.unpack_from(f"{order}{layout}", data, at + 8)[0]
    return tags


def _orientation(exif: bytes) -> int:
    """Return the orientation in EXIF, 1 if it is damaged or has none: then an image is still an image."""
    try:
        value = _tiff_tags(exif, (274,)).get(274, 1) if exif[:2] in (b"II", b"MM") else 1
    except struct.error:
        return 1
    return value if 1 <= value <= 8 else 1


def _webp(data: bytes) -> ImageHeader:
    chunk, orientation = data[12:16], 1
    if chunk == b"VP8X":
        width, height = (1 + int.from_bytes(data[at:at + 3], "little") for at in (24, 27))
        if len(data) < 30:
            raise ValueError("the WebP ends in its header")
        orientation = _orientation(_webp_chunk(data, b"EXIF").removeprefix(b"Exif\0\0"))
    elif chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif chunk == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError("the WebP has no image")
    return ImageHeader("webp", width, height, orientation=orientation)


def _webp_chunk(data: bytes, name: bytes) -> bytes:
    """Return the content of a chunk of a WebP, empty if it is not there; it may be behind the image."""
    at = 12
    while at + 8 <= len(data):
        length = int(struct.unpack_from("<I", data, at + 4)[0])
        if data[at:at + 4] == name:
            return data[at + 8:at + 8 + length]
        at += 8 + length + length % 2
    return b""


def _pnm(data: bytes) -> ImageHeader:
    """Read the numbers of the header, between which there may be comments."""
    text = re.sub(rb"#[^\n\r]*", b"", data[:4096])
    number = data[1] - ord("0")
    count = 2 if number in (1, 4) else 3  # bitmaps have no largest value
    match = re.match(rb"P\d" + rb"\s+(\d{1,9})" * count + rb"\s", text)
    if match is None:
        raise ValueError("the PNM states no size")
    width, height, *largest = (int(word) for word in match.groups())
    return ImageHeader("pnm", width, height, 16 if largest and largest[0] > 255 else 8, 3 if number in (3, 6) else 1)


_READERS = ((re.compile(rb"\xff\xd8\xff"), _jpeg), (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
            (re.compile(rb"BM"), _bmp), (re.compile(rb"II\*\0|MM\0\*"), _tiff),
            (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp), (re.compile(rb"P[1-6]\s"), _pnm))
_OTHERS = ((re.compile(rb"....ftyp(hei|hev|mif|msf|avi)", re.DOTALL), "HEIC or AVIF: convert them"),
           (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS: `git lfs pull` gets the image"),
           (re.compile(rb"\s*<(!DOCTYPE|html)", re.IGNORECASE), "a web page, such as of a download that failed"),
           (re.compile(rb"\x00\x00\x00?\x01[\x01-\x7f]"), "a video stream, such as H.264: decode it before"))
"""What files and messages have instead of an image, and what to do."""
