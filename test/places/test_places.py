"""Place recognition: against brute force, on rendered laps, and on recorded revisits with ground truth."""

from __future__ import annotations

import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from data_folder import recorded

from vggt_ros.config import Config
from vggt_ros.features.appearance import describe, match
from vggt_ros.places.database import PlaceDatabase, gate_by_distance
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.synthetic import laps, pinhole, room
from vggt_ros.windows.solution import Solution

SIZE = (320, 240)


def unit_vectors(count: int, size: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module", name="many")
def _many():
    """10,000 keyframes with descriptors of the size of ours."""
    vectors, database = unit_vectors(10_000, 2048), PlaceDatabase()
    for keyframe, vector in enumerate(vectors):
        database.add(keyframe, vector)
    return vectors, database


def seen_again(vector: np.ndarray, seed: int) -> np.ndarray:
    """Return a vector at a similarity of about 0.45; that of all others is 0.0 +- 0.02."""
    other = vector + 2.0 * unit_vectors(1, len(vector), seed)[0]
    return other / np.linalg.norm(other)


def test_a_query_among_10000_keyframes_takes_at_most_2_ms(many):
    vectors, database = many
    queries = [seen_again(vectors[seed], seed) for seed in range(40)]
    rounds = []
    for _ in range(5):  # of processor time; the minimum, since other processes on the machine only add to it
        seconds = []
        for query in queries:
            began = time.process_time()
            database.query(query, 20, before=10_000)
            seconds.append(time.process_time() - began)
        rounds.append(np.median(seconds))
    assert min(rounds) < 2e-3


def test_the_search_agrees_with_brute_force(many):
    vectors, database = many
    found = 0
    for seed in range(50):
        keyframe = seed * 190
        query = seen_again(vectors[keyframe], seed)
        assert int(np.argmax(vectors @ query)) == keyframe
        found += int(database.query(query, 5, before=10_000)[0]) == keyframe
    assert found >= 48


def test_newer_and_removed_keyframes_are_not_found(many):
    vectors, _ = many
    database = PlaceDatabase()
    for keyframe in range(100):
        database.add(keyframe, vectors[keyframe])
    assert database.query(vectors[40], 1, before=100).tolist() == [40]
    assert sorted(database.query(vectors[40], 64, before=40).tolist()) == list(range(40))
    database.remove(40)
    database.remove(4711)
    assert len(database) == 99
    assert 40 not in database.query(vectors[40], 100, before=100)
    assert len(PlaceDatabase().query(vectors[0], 5, before=9)) == 0


def test_descriptors_are_checked(many):
    database = PlaceDatabase()
    database.add(0, many[0][0])
    with pytest.raises(ValueError, match="descriptor of keyframe 1 has 100 numbers"):
        database.add(1, np.ones(100, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        database.add(1, np.full(2048, np.nan, np.float32))


def test_candidates_out_of_range_are_removed():
    """A straight path of 99 m: the view range is 6 m at a depth of 2 m, and the drift a tenth of the path between."""
    poses = np.tile(np.eye(4), (100, 1, 1))
    poses[:, 2, 3] = np.arange(100)
    submaps = np.zeros(100, np.int64)
    submaps[:10] = 1
    solution = Solution(ids=np.arange(100), submaps=submaps, map_camera=poses)
    near = gate_by_distance(99, np.arange(98), solution, depth=2.0, config=Config().loops)
    # All of the other submap, whose relative pose is unknown, and 99 - k <= 6 + (99 - k) / 10.
    assert near.tolist() == [*range(10), *range(93, 98)]
    wide = gate_by_distance(99, np.arange(98), solution, 2.0, Config().replace({"loops.drift": 0.5}).loops)
    assert wide.tolist() == [*range(10), *range(87, 98)]  # 99 - k <= 6 + (99 - k) / 2
    assert gate_by_distance(99, np.array([3, 777]), solution, 2.0, Config().loops).tolist() == [3]  # 777 is not solved
    assert len(gate_by_distance(777, np.arange(9), solution, 2.0, Config().loops)) == 0


def test_an_image_without_texture_has_no_descriptor():
    features, descriptor = describe(np.full((240, 320, 3), 128, np.uint8))
    assert len(features) == 0 and not descriptor.any()
    assert len(match(features, features)[0]) == 0


def test_matches_agree_with_a_known_rotation_of_the_image():
    image = room().render(laps(40)[3], pinhole(*SIZE), SIZE)[0]
    turn = cv2.getRotationMatrix2D((160, 120), 25, 1.1)
    first, second = describe(image)[0], describe(cv2.warpAffine(image, turn, SIZE))[0]
    rows, columns = match(first, second)
    moved = first.pixels(SIZE)[rows] @ turn[:, :2].T + turn[:, 2]
    assert len(rows) > 40
    assert np.mean(np.linalg.norm(moved - second.pixels(SIZE)[columns], axis=1) < 2) > 0.9


def test_the_second_lap_recognizes_the_first():
    """A room that is not in the training data of the vocabulary: the most similar view of the first lap is near."""
    poses, scene = laps(48, laps=2.0), room(seed=11)
    descriptors = [describe(scene.render(pose, pinhole(*SIZE), SIZE)[0])[1] for pose in poses]
    database, correct = PlaceDatabase(), 0
    for keyframe in range(48):
        database.add(keyframe, descriptors[keyframe])
    for keyframe in range(26, 47):
        best = int(database.query(descriptors[keyframe], 1, before=keyframe - 12)[0])
        correct += np.linalg.norm(poses[best][:3, 3] - poses[keyframe][:3, 3]) < 0.7
    assert correct >= 19


def recall(name: str, step: int, gap: int, distance: float, degrees: float, count: int) -> tuple[float, int]:
    """Return the fraction of images of revisited places that retrieve one among `count` keyframes, and their number."""
    sequence = open_sequence(recorded(name))
    stamps, truth = sequence.truth
    database, poses, found = PlaceDatabase(), [], []
    for index, (stamp, image) in enumerate(sequence):
        if index % step:
            continue
        pose = truth[np.argmin(np.abs(stamps - stamp))]
        descriptor = describe(image)[1]
        revisited = [k for k, other in enumerate(poses[: max(0, len(poses) - gap)])
                     if np.linalg.norm(other[:3, 3] - pose[:3, 3]) < distance
                     and other[:3, 2] @ pose[:3, 2] > np.cos(np.radians(degrees))]
        if revisited:
            retrieved = database.query(descriptor, count, before=len(poses) - gap)
            found.append(bool(set(retrieved.tolist()) & set(revisited)))
        database.add(len(poses), descriptor)
        poses.append(pose)
    return float(np.mean(found)), len(found)


def test_recall_over_a_desk():
    """tum_fr1_xyz revisits all its places: measured 0.98 of 64."""
    fraction, queries = recall("tum_fr1_xyz", 5, 8, 0.2, 20, 5)
    assert queries > 50 and fraction >= 0.95


def test_recall_across_rooms():
    """hololens_dvmvs_000 revisits places from other viewpoints, partly through doors: measured 0.88 of 17."""
    fraction, queries = recall("hololens_dvmvs_000", 2, 20, 1.0, 35, 20)
    assert queries >= 10 and fraction >= 0.7


@pytest.mark.parametrize("order", ["torch gtsam", "gtsam torch"])
def test_torch_and_gtsam_work_in_one_process(order):
    """Each brings its own OpenMP; both must work in one process, in any order of import."""
    work = {"torch": "(torch.ones(300, 300) @ torch.ones(300, 300)).sum()", "gtsam": "gtsam.Pose3()"}
    names = order.split()
    pytest.importorskip("torch", reason="torch is not installed")
    code = "; ".join(["import numpy as np", *(f"import {n}; {work[n]}" for n in names), *(work[n] for n in names)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
