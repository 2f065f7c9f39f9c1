"""Which tracks of a window are solved: one in each part of an image, but not too few where texture is in few places."""

import numpy as np

from vggt_ros.reconstruction.multiview.matching.tracks import CELLS, MIN_SPREAD, well_spread

SIZE = (640, 480)


def tracks_at(points: np.ndarray, views: int = 3) -> np.ndarray:
    """Return tracks (n, S, 2) that stay at these points; every other one ends a view earlier."""
    tracks = np.repeat(points[:, None], views, axis=1).astype(np.float64)
    tracks[1::2, -1] = np.nan
    return tracks


def test_one_track_is_kept_in_each_part_and_it_is_a_long_one():
    points = np.random.default_rng(0).uniform((0, 0), SIZE, (6000, 2))
    tracks = tracks_at(points)
    rows = well_spread(tracks, SIZE)
    assert MIN_SPREAD < len(rows) <= 1.2 * CELLS and np.all(np.diff(rows) > 0)
    assert np.isfinite(tracks[rows, -1, 0]).mean() > 0.95  # half of all tracks end earlier


def test_texture_in_one_corner_keeps_enough_of_the_longest_tracks():
    points = np.random.default_rng(1).uniform((0, 0), (60, 60), (1000, 2))
    rows = well_spread(tracks_at(points), SIZE)
    assert len(rows) == MIN_SPREAD and np.all(rows % 2 == 0)


def test_few_tracks_are_all_kept():
    points = np.random.default_rng(2).uniform((0, 0), (60, 60), (100, 2))
    assert well_spread(tracks_at(points), SIZE).tolist() == list(range(100))
