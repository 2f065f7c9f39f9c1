"""Recognition of places: against brute force, on rendered laps, and on recorded revisits with ground truth."""

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
from vggt_ros.places.database import PlaceDatabase, within_reach
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.synthetic import laps, pinhole, room
from vggt_ros.windows.solution import Solution

SIZE = (320, 240)


def unit_vectors(count: int, size: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module", name="many")
def _many():
    """10,000 keyframes with descriptors of our own size."""
    vectors, places = unit_vectors(10_000, 2048), PlaceDatabase()
    for keyframe, vector in enumerate(vectors):
        places.add(keyframe, vector)
    return vectors, places


def seen_again(vector: np.ndarray, seed: int) -> np.ndarray:
    """Return a vector at a similarity of about 0.45, where all the others are at 0.0 +- 0.02."""
    other = vector + 2.0 * unit_vectors(1, len(vector), seed)[0]
    return other / np.linalg.norm(other)


def test_a_query_among_10000_keyframes_takes_at_most_2_ms(many):
    vectors, places = many
    queries = [seen_again(vectors[seed], seed) for seed in range(40)]
    rounds = []
    for _ in range(5):  # of processor time: other work on the machine only ever adds
        seconds = []
        for query in queries:
            began = time.process_time()
            places.similar(query, 20, before=10_000)
            seconds.append(time.process_time() - began)
        rounds.append(np.median(seconds))
    assert min(rounds) < 2e-3


def test_the_search_finds_what_brute_force_finds(many):
    vectors, places = many
    found = 0
    for seed in range(50):
        keyframe = seed * 190
        query = seen_again(vectors[keyframe], seed)
        assert int(np.argmax(vectors @ query)) == keyframe
        found += int(places.similar(query, 5, before=10_000)[0]) == keyframe
    assert found >= 48


def test_newer_and_forgotten_keyframes_are_not_found(many):
    vectors, _ = many
    places = PlaceDatabase()
    for keyframe in range(100):
        places.add(keyframe, vectors[keyframe])
    assert places.similar(vectors[40], 1, before=100).tolist() == [40]
    assert sorted(places.similar(vectors[40], 64, before=40).tolist()) == list(range(40))
    places.remove(40)
    places.remove(4711)
    assert len(places) == 99
    assert 40 not in places.similar(vectors[40], 100, before=100)
    assert len(PlaceDatabase().similar(vectors[0], 5, before=9)) == 0


def test_descriptors_are_checked(many):
    places = PlaceDatabase()
    places.add(0, many[0][0])
    with pytest.raises(ValueError, match="descriptor of keyframe 1 has 100 numbers"):
        places.add(1, np.ones(100, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        places.add(1, np.full(2048, np.nan, np.float32))


def test_places_out_of_reach_are_left_out():
    """A straight way of 99 m: depth 2 m reaches 6 m, and the map may be off by a tenth of the way between."""
    poses = np.tile(np.eye(4), (100, 1, 1))
    poses[:, 2, 3] = np.arange(100)
    submaps = np.zeros(100, np.int64)
    submaps[:10] = 1
    solution = Solution(ids=np.arange(100), submaps=submaps, map_camera=poses)
    near = within_reach(99, np.arange(90), solution, depth=2.0, config=Config().loops)
    assert near.tolist() == [*range(10), *range(93, 90)]  # only the other submap, of which nothing is known
    wide = within_reach(99, np.arange(98), solution, 2.0, Config().replace({"loops.drift": 0.5}).loops)
    assert wide.tolist() == [*range(10), *range(87, 98)]  # 99 - k <= 6 + (99 - k) / 2
    assert within_reach(99, np.array([3, 777]), solution, 2.0, Config().loops).tolist() == [3]  # 777 is not solved
    assert len(within_reach(777, np.arange(9), solution, 2.0, Config().loops)) == 0


def test_what_has_no_texture_has_no_descriptor():
    features, descriptor = describe(np.full((240, 320, 3), 128, np.uint8))
    assert len(features) == 0 and not descriptor.any()
    assert len(match(features, features)[0]) == 0


def test_matches_are_where_a_known_rotation_of_the_image_puts_them():
    image = room().render(laps(40)[3], pinhole(*SIZE), SIZE)[0]
    turn = cv2.getRotationMatrix2D((160, 120), 25, 1.1)
    first, second = describe(image)[0], describe(cv2.warpAffine(image, turn, SIZE))[0]
    rows, columns = match(first, second)
    moved = first.pixels(SIZE)[rows] @ turn[:, :2].T + turn[:, 2]
    assert len(rows) > 40
    assert np.mean(np.linalg.norm(moved - second.pixels(SIZE)[columns], axis=1) < 2) > 0.9


def test_the_second_lap_recognizes_the_first():
    """A room that the vocabulary was not learned from: the most similar view of the first lap is a near one."""
    poses, scene = laps(48, laps=2.0), room(seed=11)
    descriptors = [describe(scene.render(pose, pinhole(*SIZE), SIZE)[0])[1] for pose in poses]
    places, right = PlaceDatabase(), 0
    for keyframe in range(48):
        places.add(keyframe, descriptors[keyframe])
    for keyframe in range(26, 47):
        best = int(places.similar(descriptors[keyframe], 1, before=keyframe - 12)[0])
        right += np.linalg.norm(poses[best][:3, 3] - poses[keyframe][:3, 3]) < 0.7
    assert right >= 19


def recall(name: str, step: int, gap: int, distance: float, degrees: float, count: int) -> tuple[float, int]:
    """Return which fraction of the images that see a place again find it among `count` keyframes, and their number."""
    sequence = open_sequence(recorded(name))
    stamps, truth = sequence.truth
    places, poses, found = PlaceDatabase(), [], []
    for index, (stamp, image) in enumerate(sequence):
        if index % step:
            continue
        pose = truth[np.argmin(np.abs(stamps - stamp))]
        descriptor = describe(image)[1]
        again = [k for k, other in enumerate(poses[: max(0, len(poses) - gap)])
                 if np.linalg.norm(other[:3, 3] - pose[:3, 3]) < distance
                 and other[:3, 2] @ pose[:3, 2] > np.cos(np.radians(degrees))]
        if again:
            similar = places.similar(descriptor, count, before=len(poses) - gap)
            found.append(bool(set(similar.tolist()) & set(again)))
        places.add(len(poses), descriptor)
        poses.append(pose)
    return float(np.mean(found)), len(found)


def test_recall_over_a_desk():
    """tum_fr1_xyz turns back to every place: measured 0.98 of 64."""
    fraction, queries = recall("tum_fr1_xyz", 5, 8, 0.2, 20, 5)
    assert queries > 50 and fraction >= 0.95


def test_recall_across_rooms():
    """hololens_dvmvs_000 sees places again from elsewhere, partly through doors: measured 0.88 of 17."""
    fraction, queries = recall("hololens_dvmvs_000", 2, 20, 1.0, 35, 20)
    assert queries >= 10 and fraction >= 0.7


@pytest.mark.parametrize("order", ["faiss torch pycolmap gtsam", "gtsam pycolmap torch faiss"])
def test_faiss_lives_beside_the_others(order):
    """Each brings its own OpenMP; all work in one process, whichever comes first."""
    work = {"faiss": "i = faiss.IndexFlatIP(64); x = np.ones((500, 64), np.float32); i.add(x); i.search(x, 3)",
            "torch": "(torch.ones(300, 300) @ torch.ones(300, 300)).sum()", "pycolmap": "pycolmap.Rotation3d()",
            "gtsam": "gtsam.Pose3()"}
    names = order.split()
    if "torch" in names:
        pytest.importorskip("torch", reason="torch is not installed")
    code = "; ".join(["import numpy as np", *(f"import {n}; {work[n]}" for n in names), *(work[n] for n in names)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
