"""Matches over wide steps, verified by an essential matrix."""

import numpy as np
import pytest

from vggt_ros.geometry.poses import inverse
from vggt_ros.images.exposure import gray_image
from vggt_ros.images.sift import SiftFeatures, sift_features, verified_matches
from vggt_ros.synthetic import orbit, pinhole, room

SIZE = (480, 360)


@pytest.fixture(scope="module")
def views():
    """Two views of a room, 60 degrees apart on an orbit, with depth."""
    scene, matrix = room(), pinhole(*SIZE)
    poses = orbit(60)[[0, 10]]
    return [scene.render(pose, matrix, SIZE) for pose in poses], poses, matrix


def test_matches_over_a_wide_step_are_where_geometry_says(views):
    (first, second), poses, matrix = views
    one, other = (sift_features(gray_image(view[0])) for view in (first, second))
    rows, columns, plain = verified_matches(one, other, matrix, matrix)
    assert len(rows) >= 30
    pixels = one.pixels[rows].astype(np.float64)
    depth = first[1][np.rint(pixels[:, 1]).astype(int), np.rint(pixels[:, 0]).astype(int)]
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], 1) @ np.linalg.inv(matrix).T
    second_first = inverse(poses[1]) @ poses[0]
    local = (rays * depth[:, None]) @ second_first[:3, :3].T + second_first[:3, 3]
    expected = (local @ matrix.T)[:, :2] / local[:, 2:]
    error = np.linalg.norm(expected - other.pixels[columns], axis=1)
    assert np.median(error) < 1.5
    assert (error < 5).mean() > 0.95
    certain = verified_matches(one, other, matrix, matrix, guided=False)
    assert np.array_equal(certain[:2], (rows[:plain], columns[:plain]))
    assert plain == len(rows), "where many match without a guide, no others are added"
    few = SiftFeatures(one.pixels[::8], one.descriptors[::8])
    rows, columns, plain = verified_matches(few, other, matrix, matrix)
    assert 12 <= plain < len(rows), "where few do, they are"
    certain = verified_matches(few, other, matrix, matrix, guided=False)
    assert np.array_equal(certain[:2], (rows[:plain], columns[:plain]))


def test_images_of_different_rooms_do_not_match(views):
    (first, _), poses, matrix = views
    elsewhere = room(seed=5).render(poses[0], matrix, SIZE)[0]
    one, other = (sift_features(gray_image(image)) for image in (first[0], elsewhere))
    rows, _, _ = verified_matches(one, other, matrix, matrix)
    assert len(rows) < 25


def test_images_without_features_have_no_matches():
    nothing = sift_features(np.zeros((120, 160), np.uint8))
    assert not len(nothing)
    assert not len(verified_matches(nothing, nothing, np.eye(3), np.eye(3))[0])
    assert not len(verified_matches(nothing, nothing, np.eye(3), np.eye(3), guided=False)[0])
