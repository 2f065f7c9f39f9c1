"""Saved maps: a folder of numpy arrays and JSON, written beside the old map and then exchanged with it.

docs/reference/map-format.md describes the format. It holds no code: arrays are read without pickle, and checked before
use.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros import __version__
from vggt_ros.config import Config
from vggt_ros.storage.files import write_ply, write_trajectory
from vggt_ros.storage.map_record import SCHEMA, MapRecord
from vggt_ros.windows.point_cloud import PointCloud

FORMAT, VERSION = "vggt_ros map", 4
"""Version of the format; it rises when a reader could not tell which arrays are missing. Older ones are read."""
_ADDED_IN_VERSION = {"appearance": 2, "node_window": 3}
"""Arrays that older versions lack, and the version since which they exist."""
_SCALAR_FIELDS = tuple(f.name for f in fields(MapRecord) if f.name not in SCHEMA)
_MAP_FILES = frozenset({"map.json", "map.ply", "trajectory.txt"})


class StorageError(ValueError):
    """A map cannot be saved or loaded; the text names the file, the array and what is wrong with it."""


def map_folder(folder: str, name: str) -> Path:
    """Return the folder of the map `name` in `folder`.

    Raises:
        StorageError: the name is empty, begins with a dot, or leads outside `folder`.

    """
    inside = Path(folder).expanduser().resolve()
    target = (inside / name).resolve()
    if target == inside or not target.is_relative_to(inside) or target.name.startswith("."):
        raise StorageError(f"map.name {name!r} does not name a folder inside map.folder, {inside}")
    return target


def save_map(folder: Path, record: MapRecord, cloud: PointCloud, map_camera: np.ndarray, config: Config) -> None:
    """Write a map; an existing one is replaced only when the new one is complete.

    Args:
        folder: of the map; files in it that are not part of a map are kept.
        record: the map.
        cloud: its points in the z-up frame `map`, for `map.ply`.
        map_camera: its keyframes' poses (k, 4, 4) there, optical axes, for `trajectory.txt` in TUM's format.
        config: the settings, for information only.

    Raises:
        StorageError: the map is empty, or the folder holds something other than a map.
        OSError: the folder cannot be written.

    """
    if len(record) == 0:
        raise StorageError("nothing is mapped yet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _recover(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "map.json").exists() \
            and not (folder / "map.ply").exists():
        raise StorageError(f"{folder} is not a map, and is not overwritten")
    new = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for name in SCHEMA:
        np.save(new / f"{name}.npy", getattr(record, name), allow_pickle=False)
    write_ply(new / "map.ply", cloud)
    write_trajectory(new / "trajectory.txt", record.keyframe_stamp, map_camera)
    description = {"format": FORMAT, "version": VERSION, "written_by": f"vggt_ros {__version__}",
                   **{name: _jsonable(getattr(record, name)) for name in _SCALAR_FIELDS}, "settings": asdict(config)}
    (new / "map.json").write_text(json.dumps(description, indent=1) + "\n")
    _exchange(new, folder)


def load_map(folder: Path) -> MapRecord:
    """Return a saved map, checked.

    Raises:
        StorageError: it is missing, of an unknown version, or damaged.

    """
    try:
        _recover(folder)
        description = json.loads((folder / "map.json").read_text())
    except FileNotFoundError:
        raise StorageError(f"{folder}: no map is saved there (map.json is missing)") from None
    except (OSError, ValueError) as error:
        raise StorageError(f"{folder / 'map.json'}: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise StorageError(f"{folder / 'map.json'}: not a map of this package")
    version = description.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise StorageError(f"{folder / 'map.json'}: version {version!r} of the format; this program reads versions 1 "
                           f"to {VERSION}")
    values: dict[str, Any] = {name: _read(folder / f"{name}.npy") for name in SCHEMA
                              if _ADDED_IN_VERSION.get(name, 1) <= version}
    values.setdefault("node_window", values["window_id"])  # windows were the nodes of the graph
    values.setdefault("appearance", np.zeros((len(values["keyframe_id"]), 0), np.float16))
    try:
        values |= {name: int(description[name]) for name in ("submap", "next_keyframe", "next_window")}
        values |= {"scale_state": str(description["scale_state"]), "scale_sigma": float(description["scale_sigma"]),
                   "scale_source": str(description["scale_source"]),
                   "map_world": np.array(description["map_world"], np.float64)}
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{folder / 'map.json'}: {error!r}") from error
    record = MapRecord(**values)
    try:
        record.check()
    except ValueError as error:
        name = str(error).split(":")[0]
        raise StorageError(f"{folder / (f'{name}.npy' if name in SCHEMA else 'map.json')}: {error}") from error
    return record


def _read(path: Path) -> np.ndarray:
    """Return the array of a file; a header that does not fit its length is rejected before memory is allocated."""
    try:
        if path.stat().st_size > 0:
            with path.open("rb") as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, kind = read(file)
                expected = int(np.prod(shape, dtype=object)) * kind.itemsize
                if kind.hasobject or expected != path.stat().st_size - file.tell():
                    raise ValueError("the length of the file does not fit its header")
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise StorageError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _exchange(new: Path, folder: Path) -> None:
    """Replace `folder` by the folder `new`; at every moment one of the two is complete (see `_recover`)."""
    old = _old(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        for entry in folder.iterdir():
            if entry.name not in _MAP_FILES and entry.suffix != ".npy" and not (new / entry.name).exists():
                (shutil.copytree if entry.is_dir() else shutil.copy2)(entry, new / entry.name)
    for path in [*(p for p in new.rglob("*") if p.is_file()), new]:
        _sync_to_disk(path)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    _sync_to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Undo an exchange that was interrupted between its two renames, and remove incomplete folders of other saves."""
    old = _old(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in folder.parent.iterdir() if folder.parent.is_dir() else ():
        start, _, process = leftover.name.rpartition("-")
        if start == f".{folder.name}.new" and process.isdecimal() and not Path("/proc", process).exists():
            shutil.rmtree(leftover, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _jsonable(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
