"""Images with an orientation of EXIF, as phones write them, made without a library for it."""

from __future__ import annotations

import struct
import zlib

import cv2


def tagged(kind, image, orientation, order="<"):
    """Return an RGB image (h, w, 3) as a JPEG, PNG or WebP that states an orientation, 1 to 8."""
    data = cv2.imencode(f".{kind}", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101] if kind == "webp" else [])[1]
    data = data.tobytes()
    exif = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(
        f"{order}IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
    if kind == "jpg":
        segment = b"Exif\0\0" + exif
        return data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment + data[2:]
    if kind == "png":
        chunk = b"eXIf" + exif
        return data[:33] + struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    size = (image.shape[1] - 1).to_bytes(3, "little") + (image.shape[0] - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<IB3x", 10, 8) + size + data[12:] + b"EXIF" + struct.pack("<I", len(exif)) + exif
    return b"RIFF" + struct.pack("<I", len(body)) + body
