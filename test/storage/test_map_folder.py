"""Saved maps: a loaded map equals the saved one, an interrupted save is harmless, and errors name what is damaged."""

import json
import os
import re
import resource
import shutil
import socket
import stat
import subprocess
import sys
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from paths import ROOT, SUPPORT
from saved_maps import UPRIGHT, mapped, record, save

from vggt_ros.benchmarks.robustness.saved_maps import damaged_maps, killed_saves, reduced
from vggt_ros.config import Config
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.storage.locking import locked
from vggt_ros.storage.map_folder import StorageError, load_map, map_folder
from vggt_ros.storage.map_record import SCHEMA, MapRecord


def same(first, second):
    for item in fields(MapRecord):
        np.testing.assert_array_equal(getattr(first, item.name), getattr(second, item.name), err_msg=item.name)


def test_a_map_is_loaded_exactly_as_it_was_saved(tmp_path):
    save(tmp_path / "map")
    same(load_map(tmp_path / "map"), record())


def test_an_atlas_continues_from_a_saved_map(tmp_path):
    """Poses, scales, depth, features and graph of an atlas restored from the saved map are those of the old one."""
    save(tmp_path / "map")
    atlas = Atlas(Config())
    atlas.restore(load_map(tmp_path / "map"))
    before, after = mapped().solution, atlas.solution()
    for name in ("ids", "stamps", "submaps", "windows", "window_ids"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    for name in ("map_camera", "scale", "window_origin"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=1e-6)
    assert after.metric == before.metric
    assert [(e.first, e.second, e.kind) for e in after.edges] == [(e.first, e.second, e.kind) for e in before.edges]
    for number, keyframe in before.keyframes.items():
        other = after.keyframes[number]
        for name in ("intrinsics", "depth", "confidence", "color", "pixels", "features"):
            np.testing.assert_array_equal(getattr(other, name), getattr(keyframe, name))
        assert other.appearance @ keyframe.appearance > 0.999
        assert len(keyframe.features) > 100
    assert atlas.record(record().next_keyframe, record().next_window, UPRIGHT).submap == record().submap


def test_descriptors_of_some_keyframes_are_kept(tmp_path):
    described = np.arange(len(record())) % 3 == 0
    vectors = np.random.default_rng(0).normal(size=(int(described.sum()), 16)).astype(np.float32)
    changed = replace(record(), keyframe_described=described, descriptor=vectors)
    save(tmp_path / "map", changed)
    atlas = Atlas(Config())
    atlas.restore(load_map(tmp_path / "map"))
    found = [keyframe.descriptor for keyframe in atlas.keyframes.values()]
    assert [vector is not None for vector in found] == described.tolist()
    np.testing.assert_array_equal([vector for vector in found if vector is not None], vectors)


def test_a_map_of_version_1_is_read(tmp_path):
    """It has no place descriptors by appearance, and windows are the nodes of its graph."""
    save(tmp_path / "map")
    for name in ("appearance", "node_window"):
        (tmp_path / "map" / f"{name}.npy").unlink()
    description = json.loads((tmp_path / "map" / "map.json").read_text())
    nodes = len(np.load(tmp_path / "map" / "window_id.npy"))
    (tmp_path / "map" / "map.json").write_text(json.dumps(description | {"version": 1, "next_window": nodes}))
    atlas = Atlas(Config())
    atlas.restore(load_map(tmp_path / "map"))
    assert len(atlas.keyframes) == len(record())
    assert all(keyframe.appearance is None for keyframe in atlas.keyframes.values())


def test_memory_of_a_keyframe():
    """About 0.13 MB a keyframe at the default width, features included."""
    keyframe = next(iter(mapped().solution.keyframes.values()))
    assert keyframe.pixels.nbytes + keyframe.features.nbytes <= 20_000
    assert keyframe.depth.nbytes + keyframe.color.nbytes + keyframe.confidence.nbytes + 20_000 < 150_000


def test_a_save_replaces_the_old_map_and_keeps_other_files(tmp_path):
    save(tmp_path / "map", replace(record(), submap=7))
    (tmp_path / "map" / "notes.txt").write_text("mine")
    save(tmp_path / "map")
    assert load_map(tmp_path / "map").submap == record().submap
    assert (tmp_path / "map" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["map"], "nothing is left beside it"


def test_a_folder_that_is_no_map_is_not_overwritten(tmp_path):
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="is not a map"):
        save(tmp_path / "map")
    assert (tmp_path / "map" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["", ".", "..", "../outside", "/tmp/outside", ".hidden", "a/../../b"])
def test_names_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(StorageError, match=r"map\.name"):
        map_folder(str(tmp_path), name)


@cache
def small():
    """A map of few bytes, because only the moment at which a save is interrupted matters."""
    return reduced(record())


def test_a_killed_save_leaves_a_complete_map(tmp_path):
    """kill -9 during a save, 50 times: the map is complete, and is the last one saved or the one being saved."""
    save(tmp_path / "map", small())
    outcome = killed_saves(tmp_path / "map", 50)
    assert not outcome.faults, outcome.faults
    assert outcome.figures["saves interrupted"] > 10
    assert outcome.figures["saves completed"] > 5


def test_a_kill_between_the_two_renames_is_undone(tmp_path):
    save(tmp_path / "map")
    (tmp_path / "map").rename(tmp_path / ".map.old")
    (tmp_path / ".map.new-999999999").mkdir()
    same(load_map(tmp_path / "map"), record())
    save(tmp_path / "map")
    assert [path.name for path in tmp_path.iterdir()] == ["map"]


def test_an_empty_map_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="nothing is mapped yet"):
        Atlas(Config()).record(0, 0, UPRIGHT)


@pytest.mark.parametrize("name", SCHEMA)
def test_errors_name_an_array_that_is_missing_truncated_or_of_another_type(tmp_path, name):
    save(tmp_path / "map", small())
    path = tmp_path / "map" / f"{name}.npy"
    good = path.read_bytes()
    values = np.load(path)
    path.unlink()
    with pytest.raises(StorageError, match=f"{name}.npy"):
        load_map(tmp_path / "map")
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(StorageError, match=f"{name}.npy"):
        load_map(tmp_path / "map")
    np.save(path, values.astype(np.complex64))
    with pytest.raises(StorageError, match=f"{name}.npy.*complex64"):
        load_map(tmp_path / "map")
    np.save(path, np.append(values.ravel(), values.ravel()[:1] if values.size else np.zeros(1, values.dtype)))
    with pytest.raises(StorageError, match=r"\.npy"):
        load_map(tmp_path / "map")


def test_pickles_are_rejected(tmp_path):
    save(tmp_path / "map", small())
    np.save(tmp_path / "map" / "depth.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(StorageError, match=r"depth\.npy"):
        load_map(tmp_path / "map")


@pytest.mark.parametrize(("name", "change", "word"), [
    ("keyframe_id", lambda v: v[::-1], "rise"), ("keyframe_id", lambda v: v + 10**6, "next_keyframe"),
    ("keyframe_window", lambda v: v + 1000, "window"), ("keyframe_submap", lambda v: v + 5, "submap"),
    ("keyframe_pose", lambda v: v * 2, "pose"), ("keyframe_pose", lambda v: v * np.nan, "finite"),
    ("keyframe_intrinsics", lambda v: -v, "pinhole"), ("keyframe_size", lambda v: -v, "size"),
    ("keyframe_size", lambda v: v + 1, "keyframe_size"), ("depth", lambda v: -np.abs(v), "positive"),
    ("keyframe_features", lambda v: v + 1, "feature"), ("window_scale", lambda v: 0 * v, "positive"),
    ("window_id", lambda v: 0 * v, "differ"), ("anchor", lambda v: v + 1000, "window"),
    ("edge_first", lambda v: v + 1000, "window"),
    ("edge_second", lambda v: v[::-1] * 0 + v[-1], "no overlap with an earlier one"),
    ("edge_kind", lambda v: v + 9, "kind"),
    ("edge_covariance", lambda v: -v, "covariance"), ("edge_covariance", lambda v: v * 1e25, "covariance"),
    ("edge_covariance", lambda v: v * 0, "covariance"), ("edge_covariance", lambda v: v + np.inf, "finite"),
    ("edge_covariance", lambda v: v * 1e-20, "covariance"), ("window_scale", lambda v: v * 1e30, "out of range"),
    ("window_pose", lambda v: v + 1e12 * (np.arange(4) == 3) * (np.arange(4) < 3)[:, None], "pose"),
    ("keyframe_intrinsics", lambda v: v.transpose(0, 2, 1).copy(), "pinhole"),
    ("edge_pose", lambda v: v[:, ::-1].copy(), "pose"),
])
def test_errors_name_invalid_values(tmp_path, name, change, word):
    save(tmp_path / "map", small())
    path = tmp_path / "map" / f"{name}.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(StorageError, match=word):
        load_map(tmp_path / "map")


@pytest.mark.parametrize(("change", "word"), [
    ({"version": 5}, "version 5"), ({"version": "1"}, "version '1'"),
    ({"format": "other"}, "not a map"), ({"next_window": None}, "map.json"),
    ({"map_world": [[1, 2], [3, 4]]}, "map_world"), ({"submap": -1}, "submap")])
def test_an_invalid_description_is_rejected(tmp_path, change, word):
    save(tmp_path / "map", small())
    path = tmp_path / "map" / "map.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StorageError, match=word):
        load_map(tmp_path / "map")


@pytest.mark.parametrize("kind", ["pipe", "device", "link", "folder", "socket"])
@pytest.mark.parametrize("name", ["depth.npy", "map.json"])
def test_only_regular_files_are_read(tmp_path, monkeypatch, kind, name):
    """A pipe would block the node for ever, and a device has no end."""
    save(tmp_path / "map", small())
    path = tmp_path / "map" / name
    path.rename(tmp_path / "moved")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "moved")
    elif kind == "socket":
        opened = socket.socket(socket.AF_UNIX)
        monkeypatch.chdir(tmp_path / "map")  # the length of its path is limited
        opened.bind(name)
    elif os.geteuid():
        pytest.skip("only root makes devices")
    else:
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            pytest.skip("devices cannot be made here")
    with pytest.raises(StorageError, match=rf"{name}: "):
        load_map(tmp_path / "map")


def test_two_gigabytes_of_honest_zeros_are_not_read(tmp_path):
    """The header fits the file, which takes no space on the disk; but no keyframe has so many pixels."""
    save(tmp_path / "map", small())
    path = tmp_path / "map" / "depth.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (2**30,), "fortran_order": False, "descr": "<f2"})
        file.truncate(file.tell() + 2**31)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StorageError, match=r"\.npy: .*does not fit depth"):
        load_map(tmp_path / "map")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def test_a_map_larger_than_the_memory_is_named(tmp_path, monkeypatch):
    save(tmp_path / "map", small())
    monkeypatch.setattr("vggt_ros.storage.map_folder.available_memory", lambda: 1000)
    with pytest.raises(StorageError, match="memory"):
        load_map(tmp_path / "map")


LIMITED = """
import resource, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from saved_maps import save
from vggt_ros.storage.map_folder import StorageError, load_map
record = load_map(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)  # larger files fail as on a full disk
try:
    save(Path(sys.argv[1]), record)
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [100, 3000, 50_000])
def test_a_full_disk_leaves_nothing_behind(tmp_path, limit):
    """Whichever file is the first one that does not fit: it is named, and the map is what it was."""
    save(tmp_path / "map", record())
    (tmp_path / "map" / "notes.txt").write_text("mine")
    code = LIMITED.format(paths=[str(ROOT), str(SUPPORT)])
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "map"), str(limit)], capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\.map\.new-\d+/\w+\.\w+: cannot be written; is the disk full", done.stdout), done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["map"]
    assert (tmp_path / "map" / "notes.txt").read_text() == "mine"
    same(load_map(tmp_path / "map"), record())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file"):
        save(tmp_path / "file" / "map", small())
    with pytest.raises(StorageError, match="not a map"):
        save(tmp_path / "file", small())


SAVER = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = {paths!r}
from saved_maps import save
from vggt_ros.storage.map_folder import load_map
folder, number = Path(sys.argv[1]), int(sys.argv[2])
record = load_map(folder)
for _ in range(8):
    save(folder, replace(record, keyframe_stamp=record.keyframe_stamp * 0 + number, next_window=10**6 + number))
"""


def test_savers_exclude_each_other_and_what_is_loaded_beside_them_is_whole(tmp_path):
    save(tmp_path / "map", small())
    code = SAVER.format(paths=[str(ROOT), str(SUPPORT)])
    savers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "map"), str(number)],
                               stderr=subprocess.PIPE, text=True) for number in (1, 2)]
    seen, loads = set(), 0
    while any(saver.poll() is None for saver in savers):
        loaded = load_map(tmp_path / "map")
        loads += 1
        numbers = set(loaded.keyframe_stamp.tolist())
        assert len(numbers) == 1, "a mixture of two saves"
        assert numbers == {0} or loaded.next_window - 10**6 in numbers
        seen |= numbers
    assert [saver.wait() for saver in savers] == [0, 0], [saver.stderr.read() for saver in savers]
    assert seen & {1, 2}
    assert loads > 3
    assert load_map(tmp_path / "map").next_window - 10**6 in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["map"]


def test_a_lock_that_is_never_given_back_ends_the_wait_with_an_error(tmp_path):
    save(tmp_path / "map", small())
    with locked(tmp_path, exclusive=True), pytest.raises(StorageError, match="another process"), \
            locked(tmp_path, exclusive=False, timeout=0.2):
        pass


def test_links_and_pipes_beside_the_arrays_are_kept(tmp_path):
    save(tmp_path / "map", small())
    os.mkfifo(tmp_path / "map" / "pipe")
    (tmp_path / "map" / "link").symlink_to("/dev/zero")
    (tmp_path / "map" / "notes").mkdir()
    (tmp_path / "map" / "notes" / "a.txt").write_text("mine")
    for _ in range(2):
        save(tmp_path / "map", small())
    assert (tmp_path / "map" / "link").is_symlink()
    assert (tmp_path / "map" / "pipe").is_fifo()
    assert (tmp_path / "map" / "notes" / "a.txt").read_text() == "mine"


def test_a_kill_after_the_two_renames_keeps_other_files(tmp_path):
    save(tmp_path / "map", small())
    shutil.copytree(tmp_path / "map", tmp_path / ".map.old")
    (tmp_path / ".map.old" / "notes.txt").write_text("mine")
    same(load_map(tmp_path / "map"), small())
    assert (tmp_path / "map" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["map"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_damaged_map_is_refused_or_can_be_restored(tmp_path):
    """150 random damages: a StorageError that names a file, or a map whose poses and points are finite."""
    save(tmp_path / "good", small())
    outcome = damaged_maps(tmp_path / "good", 150)
    assert not outcome.faults, outcome.faults
    assert 50 < outcome.figures["refused by file"] < 145


def test_errors_name_a_folder_that_is_no_map(tmp_path):
    with pytest.raises(StorageError, match=r"map\.json is missing"):
        load_map(tmp_path / "map")
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "map.json").write_text("{")
    with pytest.raises(StorageError, match=r"map\.json"):
        load_map(tmp_path / "map")


def test_the_documentation_names_every_array():
    text = (ROOT / "docs" / "reference" / "map-format.md").read_text()
    missing = [name for name in (*SCHEMA, "map_world", "next_keyframe", "next_window", "scale_state") if
               f"`{name}`" not in text]
    assert not missing
