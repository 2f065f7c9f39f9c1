"""Maps that were made apart are joined where they see the same places, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from saved_maps import UPRIGHT, save
from scenes import SIZE, Sequence, lap, run, trajectory_error

from vggt_ros.cli.merge import main
from vggt_ros.config import Config
from vggt_ros.loops.merging import merge
from vggt_ros.mapping.files.restored_map import restore
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.slam import Slam
from vggt_ros.storage.combined_record import combine
from vggt_ros.storage.map_folder import load_map
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.synthetic import OracleNoise, SceneReconstructor, laps, pinhole, room
from vggt_ros.synthetic.scene import Scene
from vggt_ros.windows.frame import Frame
from vggt_ros.windows.solution import Solution

NOISE = OracleNoise(scale=0.5, rotation=0.002, translation=0.002, depth=0.02)


@cache
def other_room() -> tuple[Sequence, SceneReconstructor]:
    """Return a path through a room that looks different, and its reconstructor."""
    scene, intrinsics, poses = room(seed=7), pinhole(*SIZE), laps(104, laps=0.6)[:40]
    frames = tuple(Frame(1_800_000_000_000_000_000 + 100_000_000 * i, scene.render(p, intrinsics, SIZE)[0], intrinsics)
                   for i, p in enumerate(poses))
    return Sequence(frames, poses), SceneReconstructor(scene, [f.stamp for f in frames], poses, NOISE, seed=3)


def mapped(sequence: Sequence, reconstructor: SceneReconstructor, world: np.ndarray = UPRIGHT) -> MapRecord:
    slam: Slam = run(sequence, Config(), reconstructor).slam
    return slam.record(world)


@cache
def part(begin: int, end: int, seed: int) -> MapRecord:
    """Return the map of the images from `begin` to `end` of the lap, with other errors for each seed."""
    whole = lap()
    cut = Sequence(whole.frames[begin:end], whole.world_camera[begin:end])
    return mapped(cut, whole.oracle(noise=NOISE, seed=seed))


def solution_of(record: MapRecord) -> Solution:
    atlas = Atlas(Config())
    atlas.restore(record)
    return atlas.solution()


def test_maps_of_one_room_become_one():
    """Each part has its own scale, frame and errors; some images are in both, most places in one only."""
    merged = merge([part(0, 60, 1), part(44, 104, 2)], ["morning", "evening"], Config())
    merged.record.check()
    solution = solution_of(merged.record)
    assert merged.groups == [["morning", "evening"]] and not solution.submaps.any()
    error, _ = trajectory_error(solution.stamps, solution.map_camera, lap())
    assert error < 0.05
    np.testing.assert_array_equal(merged.record.map_world, UPRIGHT)
    first = solution_of(part(0, 60, 1))
    np.testing.assert_allclose(solution.map_camera[0], first.map_camera[0], atol=1e-9)  # the frame of the first map


def test_another_room_stays_a_submap_and_is_named():
    merged = merge([part(0, 60, 1), mapped(*other_room()), part(44, 104, 2)], ["a", "b", "c"], Config())
    assert merged.groups == [["a", "c"], ["b"]]
    solution = solution_of(merged.record)
    assert len(np.unique(solution.submaps)) == 2
    own, (sequence, _) = solution.submaps == 1, other_room()
    alone = solution_of(mapped(*other_room()))
    np.testing.assert_allclose(solution.map_camera[own], alone.map_camera, atol=1e-9)  # not moved by the others
    error, _ = trajectory_error(solution.stamps[~own], solution.map_camera[~own], lap())
    assert error < 0.05 and len(solution.stamps[own]) < len(sequence.frames)


def changed_room() -> Scene:
    """Return the room of the lap, of which only what stands along one wall, and this wall, look as they did."""
    return Scene([face if (face.corner + (face.right + face.down) / 2)[0] < -0.05 else
                  replace(face, texture=np.ascontiguousarray(face.texture[::-1, ::-1])) for face in room().faces])


def test_a_room_that_is_built_alike_is_not_joined():
    """Its first keyframes are found; those that follow, and should be, are not: the room is the same in shape only."""
    scene, poses, intrinsics = changed_room(), lap().world_camera[:60], pinhole(*SIZE)
    frames = tuple(Frame(1_900_000_000_000_000_000 + 100_000_000 * i, scene.render(p, intrinsics, SIZE)[0], intrinsics)
                   for i, p in enumerate(poses))
    alike = mapped(Sequence(frames, poses), SceneReconstructor(scene, [f.stamp for f in frames], poses, NOISE, seed=3))
    merged = merge([part(0, 60, 1), alike], ["first floor", "second floor"], Config())
    assert merged.groups == [["first floor"], ["second floor"]]
    assert "looks alike" in merged.parts[1].notes[0] and "not joined" in merged.parts[1].notes[0]


def bent_walls(record: MapRecord) -> MapRecord:
    """Return a map whose depth is far too small in the left part of all images, but for what is close to a feature."""
    depth, pixel, feature = record.depth.copy(), 0, 0
    for (height, width), count in zip(record.keyframe_size.tolist(), record.keyframe_features.tolist(), strict=True):
        untextured = np.zeros((height, width), bool)
        untextured[:, :int(0.7 * width)] = True
        for x, y in np.rint(record.feature_pixel[feature:feature + count]).astype(int).tolist():
            untextured[max(y - 2, 0):y + 3, max(x - 2, 0):x + 3] = False
        image = depth[pixel:pixel + height * width].reshape(height, width)
        image[untextured] *= 0.3
        pixel, feature = pixel + height * width, feature + count
    return replace(record, depth=depth)


def test_wrong_depth_without_texture_does_not_keep_maps_apart():
    """The points by which keyframes are found agree, whatever the walls between them are."""
    merged = merge([part(0, 60, 1), bent_walls(part(44, 104, 2))], ["morning", "evening"], Config())
    assert merged.groups == [["morning", "evening"]]
    solution = merged.atlas.solution()
    error, _ = trajectory_error(solution.stamps, solution.map_camera, lap())
    assert error < 0.05


@pytest.mark.slow
def test_a_merged_map_is_continued():
    """Images of a third visit are found in the merged map, and ids go on."""
    merged = merge([part(0, 60, 1), part(44, 104, 2)], ["a", "b"], Config()).record
    slam = Slam(Config(), lap().oracle(noise=NOISE, seed=5))
    slam.reset_tracking(merged)
    slam.reset_map(restore(merged, Config()))
    for frame in lap().frames[20:44]:
        tracked = slam.track(replace(frame, stamp=frame.stamp))
        if tracked.window is not None:
            slam.step(tracked.window)
    last = slam.flush()
    if last is not None:
        slam.step(last)
    assert slam.solution.ids[-1] >= merged.next_keyframe and not slam.solution.submaps.any()
    error, _ = trajectory_error(slam.solution.stamps, slam.solution.map_camera, lap())
    assert error < 0.05


def test_combined_maps_keep_what_they_have():
    """Before anything is joined, every map is as it was, with new ids."""
    records = [part(0, 60, 1), part(44, 104, 2)]
    record = combine(records)
    record.check()
    whole, apart = solution_of(record), [solution_of(one) for one in records]
    np.testing.assert_allclose(whole.map_camera, np.concatenate([one.map_camera for one in apart]), atol=1e-9)
    np.testing.assert_allclose(whole.scale, np.concatenate([one.scale for one in apart]), rtol=1e-9)
    assert whole.submaps.tolist() == [0] * len(records[0]) + [1] * len(records[1])
    assert record.next_keyframe == sum(one.next_keyframe for one in records)


def test_older_maps_without_descriptors_are_merged():
    """Maps of version 1 have no place descriptors: they are computed from the stored images."""
    older = replace(part(44, 104, 2), appearance=np.zeros((len(part(44, 104, 2)), 0), np.float16))
    assert merge([older, part(0, 60, 1)], ["old", "new"], Config()).groups == [["old", "new"]]


def test_command_line(tmp_path, capsys):
    for name, record in (("a", part(0, 60, 1)), ("b", part(44, 104, 2)), ("c", mapped(*other_room()))):
        save(tmp_path / name, record)
    assert main([*(str(tmp_path / name) for name in "abc"), "--output", str(tmp_path / "all")]) == 0
    said = capsys.readouterr().out
    assert "a + b" in said and "c: stays apart" in said and "b: its surfaces were registered with those of a" in said
    assert len(load_map(tmp_path / "all")) == sum(len(load_map(tmp_path / name)) for name in "abc")
    assert (tmp_path / "all" / "map.ply").stat().st_size > 10_000
    assert main([str(tmp_path / "a"), "--output", str(tmp_path / "one")]) == 1
    assert "two maps" in capsys.readouterr().err
    assert main([str(tmp_path / "a"), str(tmp_path / "a"), "--output", str(tmp_path / "one")]) == 1
    assert "given twice" in capsys.readouterr().err
    assert main([str(tmp_path / "a"), str(tmp_path / "none"), "--output", str(tmp_path / "one")]) == 1
    assert "none" in capsys.readouterr().err
    kept = len(load_map(tmp_path / "a"))
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "b" / ".." / "a")]) == 1
    assert "a is one of the maps that are merged" in capsys.readouterr().err
    assert len(load_map(tmp_path / "a")) == kept


@pytest.mark.parametrize("sizes", [(8, 16)])
def test_reconstructor_descriptors_of_different_kinds_are_left_out(sizes, caplog):
    records = []
    for size, record in zip(sizes, (part(0, 60, 1), part(44, 104, 2)), strict=True):
        records.append(replace(record, keyframe_described=np.ones(len(record), np.bool_),
                               descriptor=np.ones((len(record), size), np.float32)))
    combined = combine(records)
    combined.check()
    assert not combined.keyframe_described.any() and "different kinds" in caplog.text
    same = combine([records[0], records[0]])
    same.check()
    assert same.descriptor.shape == (2 * len(records[0]), 8)


@pytest.mark.slow
def test_the_unit_is_that_of_the_map_whose_scale_is_known_best():
    """The frame stays that of the first map."""
    unknown, known = part(0, 60, 1), replace(part(44, 104, 2), scale_state="OBSERVED", scale_sigma=0.01,
                                             scale_source="odometry")
    merged = merge([unknown, known], ["a", "b"], Config())
    assert (merged.record.scale_state, merged.record.scale_source) == ("OBSERVED", "odometry")
    solution, alone = solution_of(merged.record), solution_of(known)
    ratio = solution.scale[len(unknown):] / alone.scale
    np.testing.assert_allclose(ratio, 1, atol=0.02)
    assert abs(np.log(solution.scale[0] / solution_of(unknown).scale[0])) > 0.05  # the first map is scaled
    np.testing.assert_allclose(solution.map_camera[0, :3, 3], 0, atol=1e-6)
    assert merge([known, unknown], ["b", "a"], Config()).record.scale_state == "OBSERVED"
