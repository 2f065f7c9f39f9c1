"""The table of landmarks does what a dictionary does."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vggt_ros.odometry.landmark_table import LandmarkTable, is_among

TRACKS = st.lists(st.integers(0, 40), unique=True, max_size=25).map(lambda ids: np.array(ids, np.int64))


@given(st.lists(st.tuples(TRACKS, st.booleans()), max_size=5), TRACKS)
def test_it_holds_what_was_set_last(changes, asked):
    table, expected, value = LandmarkTable(), {}, 0
    for tracks, from_depth in changes:
        points = value + np.arange(3.0 * len(tracks)).reshape(-1, 3)
        value += 1000
        table.set(tracks, points, from_depth)
        expected |= {track: (*point, from_depth) for track, point in zip(tracks.tolist(), points.tolist())}
    assert table.ids.tolist() == sorted(expected) and len(table) == len(expected)
    known, rows = table.find(asked)
    assert known.tolist() == [track in expected for track in asked.tolist()]
    found = [(*point, source) for point, source in zip(table.points[rows].tolist(), table.from_depth[rows].tolist())]
    assert found == [expected[track] for track in asked[known].tolist()]
    assert np.array_equal(is_among(asked, np.sort(asked)[::2]), np.isin(asked, np.sort(asked)[::2]))
    table.keep(np.isin(table.ids, asked))
    assert table.ids.tolist() == sorted(expected.keys() & set(asked.tolist()))
