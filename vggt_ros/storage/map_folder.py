"""Saved maps: a folder of numpy arrays and JSON, written beside the old map and then exchanged with it.

docs/reference/map-format.md describes the format. It holds no code: arrays are read without pickle, and checked before
use. A save excludes other saves and loads of the same place, so that what is loaded is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros import __version__
from vggt_ros.config import Config
from vggt_ros.settings import is_map_name
from vggt_ros.storage.array_files import (
    ArrayFile,
    StorageError,
    as_storage_error,
    available_memory,
    jsonable,
    read_text,
)
from vggt_ros.storage.files import why_not_writable, write_ply, write_trajectory
from vggt_ros.storage.locking import locked
from vggt_ros.storage.map_record import SCHEMA, MapRecord
from vggt_ros.windows.point_cloud import PointCloud

__all__ = ["FORMAT", "VERSION", "StorageError", "load_map", "map_folder", "save_map"]

FORMAT, VERSION = "vggt_ros map", 4
"""Version of the format; it rises when a reader could not tell which arrays are missing. Older ones are read."""
_ADDED_IN_VERSION = {"appearance": 2, "node_window": 3}
"""Arrays that older versions lack, and the version since which they exist."""
_SCALAR_FIELDS = tuple(f.name for f in fields(MapRecord) if f.name not in SCHEMA)
_MAP_FILES = frozenset({"map.json", "map.ply", "trajectory.txt"})
_MAX_NAMED = 10
"""Most maps that an error names."""
_MEMORY_SHARE = 0.5
"""Largest share of the available memory that the arrays of a map may take; restoring it takes as much again."""


def map_folder(folder: str, name: str) -> Path:
    """Return the folder of the map `name` in `folder`.

    Raises:
        StorageError: the name is none by `is_map_name`, a link in it leads outside `folder`, or `~` is unknown.

    """
    try:
        inside = Path(folder).expanduser().resolve()
        target = (inside / name).resolve()
    except RuntimeError as error:
        raise StorageError(f"map.folder {folder!r} cannot be found ({error}); name the whole path") from error
    if not is_map_name(name) or not target.is_relative_to(inside):
        raise StorageError(f"map.name {name!r} does not name a folder inside map.folder, {inside}")
    return target


def check_replaceable(folder: Path) -> None:
    """Raise StorageError if `save_map` could not write a folder: it holds something other than a map, or may not."""
    folder = folder.resolve()
    if reason := why_not_writable(folder.parent):
        raise StorageError(f"{folder}: no map can be saved there: {reason}")
    try:
        if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not _is_map(folder))):
            raise StorageError(f"{folder} is not a map, and is not overwritten")
    except OSError as error:
        raise as_storage_error(error, folder) from error


def save_map(folder: Path, record: MapRecord, cloud: PointCloud, map_camera: np.ndarray, config: Config) -> None:
    """Write a map; an existing one is replaced only when the new one is complete, else nothing is left behind.

    Args:
        folder: of the map; files in it that are not part of a map are kept.
        record: the map.
        cloud: its points in the z-up frame `map`, for `map.ply`.
        map_camera: its keyframes' poses (k, 4, 4) there, optical axes, for `trajectory.txt` in TUM's format.
        config: the settings, for information only.

    Raises:
        StorageError: the map is empty, the folder holds something other than a map, it cannot be written, or the disk
            is full.

    """
    if len(record) == 0:
        raise StorageError("nothing is mapped yet")
    folder = folder.resolve()  # of a link, the place that it leads to
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent, exclusive=True):
            _recover(folder)
            check_replaceable(folder)
            new = folder.with_name(f".{folder.name}.new-{os.getpid()}")
            shutil.rmtree(new, ignore_errors=True)
            try:
                _write(new, record, cloud, map_camera, config)
                _exchange(new, folder)
            finally:
                shutil.rmtree(new, ignore_errors=True)
                _recover(folder)
    except OSError as error:
        raise as_storage_error(error, folder) from error


def load_map(folder: Path) -> MapRecord:
    """Return a saved map, checked.

    Raises:
        StorageError: it is missing, of an unknown version, damaged, or too large for the memory.

    """
    folder = folder.resolve()
    if folder.is_file():
        raise StorageError(f"{folder}: it is a file; name the folder of a map")
    if not folder.parent.is_dir():
        raise StorageError(f"{folder}: no map is saved there (map.json is missing)")
    try:
        with locked(folder.parent, exclusive=False):
            if not _is_interrupted(folder):
                return _load(folder)
        with locked(folder.parent, exclusive=True):
            with suppress(OSError):  # a folder that is not ours to write may still be read
                _recover(folder)
            return _load(folder)
    except OSError as error:
        raise as_storage_error(error, folder) from error


def _load(folder: Path) -> MapRecord:
    if not (folder / "map.json").exists():
        others = sorted(path.parent.name for path in islice(folder.parent.glob("[!.]*/map.json"), _MAX_NAMED))
        beside = f"; the maps beside it are {', '.join(others)}" if others else ""
        raise StorageError(f"{folder}: no map is saved there (map.json is missing){beside}")
    try:
        description = json.loads(read_text(folder / "map.json"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{folder / 'map.json'}: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise StorageError(f"{folder / 'map.json'}: not a map of this package")
    version = description.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise StorageError(f"{folder / 'map.json'}: version {version!r} of the format; this program reads versions 1 "
                           f"to {VERSION}")
    values = _read_arrays(folder, [name for name in SCHEMA if _ADDED_IN_VERSION.get(name, 1) <= version])
    values.setdefault("node_window", values["window_id"])  # windows were the nodes of the graph
    values.setdefault("appearance", np.zeros((len(values["keyframe_id"]), 0), np.float16))
    try:
        values |= {name: int(description[name]) for name in ("submap", "next_keyframe", "next_window")}
        values |= {"scale_state": str(description["scale_state"]), "scale_sigma": float(description["scale_sigma"]),
                   "scale_source": str(description["scale_source"]),
                   "map_world": np.array(description["map_world"], np.float64)}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StorageError(f"{folder / 'map.json'}: {error!r}") from error
    record = MapRecord(**values)
    try:
        with np.errstate(all="ignore"):
            record.check()
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        name = str(error).split(":")[0]
        raise StorageError(f"{folder / (f'{name}.npy' if name in SCHEMA else 'map.json')}: {error}") from error
    return record


def _read_arrays(folder: Path, names: list[str]) -> dict[str, Any]:
    """Return the arrays of a map. All headers are compared with each other before anything large is read."""
    files = {name: ArrayFile(folder / f"{name}.npy") for name in names}
    sizes: dict[str, tuple[int, str]] = {}
    for name, file in files.items():
        dtype, shape = SCHEMA[name]
        if file.dtype != dtype or len(file.shape) != len(shape):
            raise StorageError(f"{file.path}: {file.dtype}{list(file.shape)}, expected {dtype}{list(shape)}")
        for side, length in zip(shape, file.shape, strict=True):
            expected, origin = sizes.setdefault(side, (length, name)) if isinstance(side, str) else (side, "")
            if length != expected:
                raise StorageError(f"{file.path}: {file.dtype}{list(file.shape)}, where {length} does not fit "
                                   f"{origin or f'the {expected} of the format'}")
    total, memory = sum(file.size for file in files.values()), available_memory()
    if total > _MEMORY_SHARE * memory:
        raise StorageError(f"{folder}: its arrays have {total / 1e9:.1f} GB, but only {memory / 1e9:.1f} GB of memory "
                           "are available")
    return {name: file.read() for name, file in files.items()}


def _write(new: Path, record: MapRecord, cloud: PointCloud, map_camera: np.ndarray, config: Config) -> None:
    """Write a map as the folder `new`, and to the disk."""
    new.mkdir()
    writers: dict[str, Callable[[Path], object]] = {
        f"{name}.npy": partial(np.save, arr=getattr(record, name), allow_pickle=False) for name in SCHEMA}
    description = {"format": FORMAT, "version": VERSION, "written_by": f"vggt_ros {__version__}",
                   **{name: jsonable(getattr(record, name)) for name in _SCALAR_FIELDS}, "settings": asdict(config)}
    writers |= {"map.ply": lambda path: write_ply(path, cloud),
                "trajectory.txt": lambda path: write_trajectory(path, record.keyframe_stamp, map_camera),
                "map.json": lambda path: path.write_text(json.dumps(description, indent=1) + "\n")}
    for name, write in writers.items():
        try:
            write(new / name)
            _sync_to_disk(new / name)
        except OSError as error:  # numpy names neither the file nor the reason
            raise StorageError(f"{new / name}: cannot be written; is the disk full? "
                               f"({error.strerror or error})") from error
    _sync_to_disk(new)


def _exchange(new: Path, folder: Path) -> None:
    """Replace `folder` by the folder `new`; at every moment one of the two is complete (see `_recover`)."""
    if folder.exists():
        folder.rename(_old(folder))
    new.rename(folder)
    _sync_to_disk(folder.parent)


def _recover(folder: Path) -> None:
    """Complete an exchange that was interrupted, and remove incomplete folders of saves that have ended.

    Between the two renames the old folder comes back. After the second one, files that are not part of a map move from
    the old folder to the new one, and the rest of the old one is removed.
    """
    old = _old(folder)
    if old.is_dir() and not folder.exists():
        old.rename(folder)
    elif old.is_dir():
        for entry in old.iterdir():
            if entry.name not in _MAP_FILES and entry.suffix != ".npy" and not (folder / entry.name).exists():
                entry.rename(folder / entry.name)
        shutil.rmtree(old, ignore_errors=True)
    for leftover in _leftovers(folder):
        shutil.rmtree(leftover, ignore_errors=True)


def _is_interrupted(folder: Path) -> bool:
    return _old(folder).is_dir() or bool(_leftovers(folder))


def _leftovers(folder: Path) -> list[Path]:
    """Return the incomplete folders of saves by processes that do not exist any more."""
    found = []
    for path in folder.parent.iterdir():
        start, _, process = path.name.rpartition("-")
        if start == f".{folder.name}.new" and process.isdecimal() and not Path("/proc", process).exists():
            found.append(path)
    return found


def _is_map(folder: Path) -> bool:
    return (folder / "map.json").exists() or (folder / "map.ply").exists()


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
