"""Photos in any order: matched each with all others; those without a pose are tried again with ones like them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from scenes import SIZE

from vggt_ros.config import Config
from vggt_ros.geometry.poses import Array, inverse, umeyama
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.multiview.matching.features import detect
from vggt_ros.reconstruction.multiview.matching.tracks import track
from vggt_ros.replay.photo_windows import are_in_order, group_of_missing
from vggt_ros.replay.photos import Collection, find_photos, reconstruct_photos
from vggt_ros.synthetic import SceneReconstructor, orbit, pinhole, room
from vggt_ros.windows.keyframe import Keyframe

SHUFFLED = tuple(5 * number % 16 for number in range(16))
"""Numbers of the poses of an orbit, in the order of the names of their photos: 50 degrees from one to the next."""


@pytest.fixture(scope="module", name="truth")
def _truth() -> Array:
    """Poses of the photos in the order of their names, shuffled."""
    return orbit(len(SHUFFLED), degrees=150.0)[list(SHUFFLED)]


@pytest.fixture(scope="module", name="files")
def _files(truth: Array, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for number, world_camera in enumerate(truth):
        image = room().render(world_camera, pinhole(*SIZE), SIZE)[0]
        cv2.imwrite(str(folder / f"{number:02d}.png"), image[..., ::-1])
    matrix = pinhole(*SIZE)
    (folder / "calibration.txt").write_text(" ".join(f"{value:.9g}" for value in (
        *matrix[[0, 1], [0, 1]], *matrix[:2, 2])))
    return find_photos([folder])[0]


def error(found: Collection, truth: Array) -> float:
    """Return the largest error of the centers after the best similarity, in units of the room."""
    centers = np.array([photo.map_camera[:3, 3] for photo in found.photos])
    world_map = umeyama(centers, truth[:, :3, 3])
    return float(np.linalg.norm(world_map.apply(centers) - truth[:, :3, 3], axis=1).max())


def test_photos_in_any_order_are_reconstructed(files: list[Path], truth: Array) -> None:
    """By `multiview`, without a network: all have the true pose."""
    config = Config().replace({"reconstructor": "multiview"})
    found = reconstruct_photos(files, create_reconstructor(config, progress=lambda text: None)[0], config, 60, False)
    assert found.missing == []
    assert error(found, truth) < 0.02


def test_images_of_a_video_are_recognized_by_their_order() -> None:
    """Then corners are followed from one into the next, which takes a quarter of the time of all pairs."""
    matrix = pinhole(*SIZE)
    images = [Keyframe(number, number, room().render(pose, matrix, SIZE)[0], matrix)
              for number, pose in enumerate(orbit(16, degrees=45.0))]
    assert are_in_order(images)
    assert not are_in_order([images[number] for number in SHUFFLED])
    assert not are_in_order([replace(images[0], image=np.zeros_like(images[0].image))] * 3), "nothing can be followed"


def test_tracks_of_photos_are_right(truth: Array) -> None:
    """Points are where the rendered depth says; their order hardly changes how many observations there are."""
    poses, matrix = truth[:8], pinhole(*SIZE)
    keyframes = [Keyframe(number, number, room().render(pose, matrix, SIZE)[0], matrix, unordered=True)
                 for number, pose in enumerate(poses)]
    depths = [room().depth(pose, matrix, SIZE) for pose in poses]
    counts = []
    for order in (range(8), (3, 0, 6, 2, 5, 7, 1, 4)):
        chosen = [keyframes[number] for number in order]
        tracks = track([detect(keyframe, 600) for keyframe in chosen], chosen)
        first = np.argmax(~np.isnan(tracks[..., 0]), axis=1)
        errors = []
        for pixels, start in zip(tracks, first, strict=True):
            x, y = np.rint(pixels[start]).astype(int)
            ray = np.linalg.inv(matrix) @ [*pixels[start], 1] * depths[order[start]][y, x]
            for row in np.flatnonzero(~np.isnan(pixels[:, 0])):
                local = inverse(poses[order[row]]) @ poses[order[start]] @ [*ray, 1]
                errors.append(np.linalg.norm((matrix @ local[:3])[:2] / local[2] - pixels[row]) if row != start else 0)
        assert np.mean(np.array(errors) < 4) > 0.97
        counts.append(len(errors))
    assert abs(np.log(counts[1] / counts[0])) < 0.1


class Neighbors(SceneReconstructor):
    """The truth of windows in which each photo is at most three steps of the orbit from another one."""

    def reconstruct(self, window):
        at = np.array([number_of(keyframe.image) for keyframe in window.keyframes])
        if (np.diff(np.sort(at)) > 3).any():
            raise ReconstructionRefused("the photos share too little")
        known = [type(k)(k.id, (number + 1) * 10**9, k.image, pinhole(*SIZE), k.calibrated)
                 for k, number in zip(window.keyframes, at, strict=True)]
        return super().reconstruct(type(window)(window.id, tuple(known), window.shared))


def number_of(image: np.ndarray) -> int:
    """Return the number of the pose on the orbit from which an image was rendered."""
    return int(np.argmin([np.abs(image.astype(int) - other).mean() for other in _images()]))


@cache
def _images() -> list[np.ndarray]:
    return [room().render(pose, pinhole(*SIZE), SIZE)[0].astype(int)
            for pose in orbit(len(SHUFFLED), degrees=150.0)]


def test_photos_without_a_pose_are_tried_again(files: list[Path], truth: Array) -> None:
    """In the order of their names no four are neighbors; the windows of those that look alike are solved."""
    stamps = [(number + 1) * 10**9 for number in range(len(SHUFFLED))]
    oracle = Neighbors(room(), stamps, orbit(len(SHUFFLED), degrees=150.0), depth_width=SIZE[0])
    found = reconstruct_photos(files, oracle, Config(), 4, False)
    assert found.missing == []
    assert found.refusals == []
    assert error(found, truth) < 0.01


def test_a_group_has_placed_photos_and_those_most_like_them() -> None:
    """Photos on a line, of which the middle ones are placed: what was tried least comes first."""
    similar = -np.abs(np.subtract.outer(np.arange(12.0), np.arange(12.0)))
    placed = np.zeros(12, bool)
    placed[4:7] = True
    assert group_of_missing(similar, placed, np.zeros(12, np.intp), 6) == ([4, 5], [3, 2, 1, 0])
    tried = np.zeros(12, np.intp)
    tried[:4] = 1
    assert group_of_missing(similar, placed, tried, 6) == ([5, 6], [7, 8, 9, 10])
    shared, group = group_of_missing(similar, np.zeros(12, bool), np.zeros(12, np.intp), 6)
    assert shared == []
    assert sorted(group) == list(range(min(group), min(group) + 6))
