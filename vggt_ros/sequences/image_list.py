"""Which files of a folder are its images, and in which order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from vggt_ros.sequences.encodings import ImageError
from vggt_ros.sequences.image_header import ImageHeader, read_header
from vggt_ros.sequences.orientation import Form
from vggt_ros.sequences.sequence import SequenceError
from vggt_ros.storage.files import is_name, parse_stamp, read_lines

SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm"}
UNREAD = {".heic", ".heif", ".avif", ".gif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".exr", ".jp2"}
"""Formats of images that are not read: of phones (HEIC), and raw ones of cameras."""
VIDEOS = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"}
_STORAGE = {".mcap", ".db3"}
BAG_SUFFIXES = {*_STORAGE, ".bag"}
"""Of rosbag2, and of ROS 1."""
_HEADER_BYTES = 65536
"""Bytes of a file that are read for its header at first; in a few files it lies further behind."""
_NANOSECONDS = {13: 10**6, 16: 10**3, 19: 1}
"""Nanoseconds in the unit of a time since 1970 with so many digits."""
_TUM_DEPTH = 5000.0
"""Units per meter in the depth images of the TUM RGB-D benchmark."""
_SAMPLE = 100
"""Most files whose size is read to find the size that most of them have."""


def find_images(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the images of a folder, by their numbers (2 before 10), and a line on those that are left out.

    Hidden files are none of them: macOS leaves `._name` beside every `name`. Nor is 16-bit gray beside other images:
    that is sensor depth.

    Raises:
        SequenceError: there are no images.

    """
    names = [file for file in folder.iterdir() if not file.name.startswith(".")]
    files = sorted((file for file in names if file.suffix.lower() in SUFFIXES and file.is_file()), key=_order(names))
    if not files:
        others = Counter(file.suffix.lower() for file in names if file.suffix and file.is_file()).most_common(3)
        seen = f"; it has {', '.join(f'{count} {suffix}' for suffix, count in others)}" if others else ""
        raise SequenceError(f"{folder}: there are no images in it ({' '.join(sorted(SUFFIXES))}){seen}{_meant(folder)}")
    unread = Counter(file.suffix.lower() for file in names if file.suffix.lower() in UNREAD)
    lines = [f"{count} files {suffix} are left out, which are not read; convert them to JPEG or PNG"
             for suffix, count in unread.most_common()]
    depth = {file for file in files if _is_gray16(file)}
    if not depth or len(depth) == len(files):
        return files, lines
    return [file for file in files if file not in depth], [
        *lines, f"{len(depth)} images of 16-bit gray are left out, such as {min(depth).name}: beside other images they "
        "are sensor depth"]


def _meant(folder: Path) -> str:
    """Return what may be meant by a folder without images, as the end of a sentence; empty if nothing is there."""
    if (folder / "map.json").exists():
        return "; it is a saved map, which `replay --load`, `export` and `merge` take"
    if (folder / "metadata.yaml").exists():
        return "; it is a bag, which `replay` takes"
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in UNREAD:
            return "; convert them to JPEG or PNG"
        if path.suffix.lower() in VIDEOS:
            return f"; name the video itself, {path}"
        if path.suffix == ".zstd":
            return "; a compressed bag without metadata.yaml: `zstd -d` its files"
        if storage_files(path):
            return f"; {path} is a bag"
        if find_list(path) or find_list(path / "mav0" / "cam0"):
            return f"; {path} is a recording"
        if path.is_dir() and any(file.suffix.lower() in SUFFIXES for file in path.iterdir()):
            return f"; {path} has images"
    return ""


def common_form(files: list[Path]) -> Form:
    """Return the size and orientation that most of some images have.

    Raises:
        SequenceError: none of them is an image.

    """
    problem, forms = "", Counter[Form]()
    for file in files[::max(1, len(files) // _SAMPLE)]:
        try:
            header = header_of(file)
            forms[Form((header.width, header.height), header.orientation)] += 1
        except ImageError as error:
            problem = problem or f"{file}: {error}"
    if not forms:
        raise SequenceError(problem)
    sizes = Counter[tuple[int, int]]()
    for form, count in forms.items():
        sizes[form.stored] += count
    stored = sizes.most_common(1)[0][0]
    return max((form for form in forms if form.stored == stored), key=lambda form: forms[form])


def header_of(file: Path) -> ImageHeader:
    """Return the header of an image file; raises ImageError if it is missing or damaged."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_HEADER_BYTES)
            try:
                header = read_header(data)
                if header.kind != "webp":  # its orientation is behind the image
                    return header
            except ImageError:
                if len(data) < _HEADER_BYTES:
                    raise
            return read_header(data + opened.read())
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error


def find_list(folder: Path) -> tuple[Path, Path] | None:
    """Return the list of a folder's images, and to which folder it is relative: `rgb.txt`, or `data.csv` of EuRoC."""
    lists = [(folder / "rgb.txt", folder), (folder / "data.csv", folder / "data")]
    return next((found for found in lists if found[0].exists() and found[1].is_dir()), None)


def read_list(path: Path, folder: Path | None = None) -> list[tuple[int, Path]]:
    """Return stamps and files of a list with the lines `timestamp filename`, as from any text editor.

    Commas may be between them, and the first line may be the names of the columns. The files are relative to `folder`,
    by default that of the list.

    Raises:
        SequenceError: a line has another form, or there are none.
        FileError: the list is missing or not text.

    """
    entries = []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.replace(",", " ", 1).split(maxsplit=1)
        if not fields or fields[0].startswith("#") or (number == 1 and is_name(fields[0])):
            continue
        try:
            stamp, name = parse_stamp(fields[0]), fields[1].strip()
        except (ValueError, IndexError) as error:
            reason = f" ({error})" if isinstance(error, ValueError) else ""
            raise SequenceError(f"{path}, line {number}: expected `timestamp filename`{reason}") from error
        file = (folder or path.parent) / name
        if "\\" in name and not file.exists():  # written on Windows
            file = (folder or path.parent) / name.replace("\\", "/")
        entries.append((stamp, file))
    if not entries:
        raise SequenceError(f"{path}: there are no images in it")
    return entries


def times_in_names(files: list[Path]) -> list[int] | None:
    """Return the stamps, nanoseconds, that the names of files in their order are; None if they are no rising times.

    Recorders name images by decimal seconds, or by whole milli-, micro- or nanoseconds since 1970.
    """
    stamps = []
    for name in (file.stem for file in files):
        if re.fullmatch(r"\d{1,10}\.\d+", name):
            stamps.append(parse_stamp(name))
        elif name.isdecimal() and len(name) in _NANOSECONDS:
            stamps.append(int(name) * _NANOSECONDS[len(name)])
        else:
            return None
    return stamps if all(one < other for one, other in pairwise(stamps)) else None


def depth_unit(folder: Path) -> tuple[float, list[str]]:
    """Return the units per meter of 16-bit depth images, and a line if they are assumed: without one in README.txt.

    A line there that begins with `Depth` says `N units per meter` or `mm`. The default is that of the TUM RGB-D
    benchmark, whose lists `depth.txt` are.
    """
    path = folder / "README.txt"
    line = next((line for line in read_lines(path) if line.startswith("Depth")), "") if path.exists() else ""
    if match := re.search(r"(\d+) units per met", line):
        return float(match[1]), []
    if re.search(r"\bmm\b", line):
        return 1000.0, []
    return _TUM_DEPTH, [f"{_TUM_DEPTH:g} units per meter in the depth images, as in the TUM benchmark; "
                        f"another unit is said in {path} by a line `Depth N units per meter` or `Depth mm`"]


def storage_files(folder: Path) -> list[Path]:
    """Return the files of a rosbag2 in a folder, by the numbers in their names; none if it is no folder."""
    files = [file for file in folder.iterdir() if file.suffix in _STORAGE] if folder.is_dir() else []
    return sorted(files, key=lambda file: natural_key(file.name))


def natural_key(name: str) -> tuple[object, ...]:
    """Return a key that sorts names by the numbers in them: image2 before image10."""
    return tuple(int(word) if word.isdecimal() else word for word in re.split(r"(\d+)", name))


def _order(files: list[Path]) -> Callable[[Path], Any]:
    """Return the key by which files are sorted: as decimal numbers if all names are numbers, such as times."""
    if all(re.fullmatch(r"\d+\.\d+", file.stem) for file in files if file.suffix.lower() in SUFFIXES):
        return lambda file: (Decimal(file.stem), file.name)
    return lambda file: (natural_key(file.name), file.name)


def _is_gray16(file: Path) -> bool:
    try:
        header = header_of(file)
    except ImageError:
        return False
    return header.bits == 16 and header.channels == 1
