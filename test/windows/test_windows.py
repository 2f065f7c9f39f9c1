"""The sliding buffer: ids, overlap, back-pressure, partial windows."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_ros.config import WindowConfig
from vggt_ros.windows.keyframe import Corners, Keyframe, Window
from vggt_ros.windows.load import Load
from vggt_ros.windows.sliding_buffer import SlidingBuffer


def keyframe(number: int) -> Keyframe:
    """Return a keyframe with the given id; the other data do not matter."""
    return Keyframe(number, number, np.zeros((2, 2, 3), np.uint8), np.eye(3))


def nothing() -> Corners:
    """Return the corners of an image in which no feature was tracked."""
    return Corners(np.zeros(0, np.int64), np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32))


def add(buffer: SlidingBuffer, number: int, load: Load = Load()) -> Window | None:
    """Add a keyframe, and return the window that is formed at the image after it."""
    buffer.add(keyframe(number), load)
    return buffer.next_image(nothing, load)


def test_windows_share_their_overlap():
    """Eight keyframes each; the first three of a window are the last three of the previous one."""
    buffer = SlidingBuffer(WindowConfig(size=8, overlap=3))
    windows = [w for w in (add(buffer, i) for i in range(23)) if w]
    assert [w.ids for w in windows] == [tuple(range(s, s + 8)) for s in (0, 5, 10, 15)]
    assert [w.shared for w in windows] == [(), (5, 6, 7), (10, 11, 12), (15, 16, 17)]
    assert [w.id for w in windows] == [0, 1, 2, 3]


def test_a_partial_window_tells_its_true_overlap():
    """Two new keyframes after a full window: five keyframes, three shared; then nothing is left to flush."""
    buffer = SlidingBuffer(WindowConfig(size=8, overlap=3))
    for i in range(10):
        add(buffer, i)
    window = buffer.flush()
    assert window is not None
    assert window.ids == (5, 6, 7, 8, 9)
    assert window.shared == (5, 6, 7)
    assert buffer.flush() is None


def test_a_single_keyframe_makes_no_window():
    """Nothing can be reconstructed from one image."""
    buffer = SlidingBuffer(WindowConfig())
    buffer.add(keyframe(0))
    assert buffer.flush() is None


@given(st.lists(st.sampled_from(["free", "busy", "busy", "break"]), min_size=20, max_size=200), st.integers(3, 10),
       st.data())
@settings(max_examples=100, deadline=None)
def test_every_keyframe_is_in_a_window_or_is_counted_as_thinned(events, size, data):
    """The chain of overlaps breaks only where it has to, and no window has keyframes of both sides of a break."""
    overlap = data.draw(st.integers(1, size - 1))
    buffer, windows, breaks, count = SlidingBuffer(WindowConfig(size=size, overlap=overlap)), [], {0}, 0
    for event in events:
        if event == "break":
            breaks.add(count)
            windows.append(buffer.flush_without_overlap())
        else:
            windows.append(add(buffer, count, Load(busy=event == "busy")))
            count += 1
        assert buffer.waiting <= 4 * 2 + len(breaks)
    windows.append(buffer.flush_without_overlap())
    windows = [*filter(None, windows), *iter(buffer.flush, None)]
    assert buffer.waiting == 0
    assert len({k for w in windows for k in w.ids}) + buffer.thinned == count
    for before, after in pairwise([Window(-1, (), ()), *windows]):
        broken = not windows or any(max(before.ids, default=-1) < b <= after.ids[0] for b in breaks)
        assert not any(after.ids[0] < b <= after.ids[-1] for b in breaks)
        assert after.shared == after.ids[: len(after.shared)] and set(after.shared) <= set(before.ids)
        assert len(after.shared) == (0 if broken else min(overlap, len(before.ids)))
        assert 2 <= len(after.ids) <= size


def test_thinning_keeps_the_gaps_even():
    """More keyframes than two windows take: those left are evenly spaced; the shared and the newest are among them."""
    buffer = SlidingBuffer(WindowConfig(size=8, overlap=3, max_waiting=2))
    for i in range(8):
        add(buffer, i)
    for i in range(8, 48):
        assert add(buffer, i, Load(busy=True)) is None
    assert buffer.waiting == 2
    windows = list(iter(buffer.flush, None))
    assert windows[0].shared == (5, 6, 7)
    ids = sorted({k for window in windows for k in window.ids})
    assert ids[-1] == 47 and len(ids) == 3 + 2 * 5 + 4
    assert np.diff(ids[2:]).max() <= 4, "40 keyframes, of which 14 are left"
    assert buffer.thinned == 40 - 14


def test_keyframes_that_are_farther_apart_already_are_thinned_last():
    """Ten were made at the usual distance, ten at twice that: of the former more are taken out."""
    buffer = SlidingBuffer(WindowConfig(size=8, overlap=3, max_waiting=1))
    for i in range(20):
        add(buffer, i, Load(busy=True, waiting=0 if i < 10 else 2))
    window = buffer.flush_without_overlap()
    assert window is not None and len(window.ids) == 8
    places = np.array([i if i < 10 else 10 + 2.2 * (i - 10) for i in window.ids])
    assert np.diff(places).max() <= 1.5 * np.median(np.diff(places))


def test_no_keyframe_is_thinned_that_holds_two_others_together():
    """A fifth of the corners is new in each; in the middle 45 %, so every other one has a tenth in common."""
    buffer = SlidingBuffer(WindowConfig(size=8, overlap=3, max_waiting=1))
    first = np.cumsum([20] * 10 + [45] * 10 + [20] * 10)
    for i, start in enumerate(first):
        ids = np.arange(start, start + 100)
        corners = Corners(ids, np.zeros((100, 2), np.float32), np.zeros((100, 2), np.float32))
        buffer.add(replace(keyframe(i), corners=corners), Load(busy=True))
        assert buffer.next_image(lambda corners=corners: corners, Load(busy=True)) is None
    kept = sorted({k for window in iter(buffer.flush, None) for k in window.ids})
    assert buffer.thinned > 10 and set(range(10, 19)) <= set(kept)
    assert (100 - np.diff(first[kept])).min() >= 30


def test_only_the_image_after_a_keyframe_tells_its_velocity():
    """The next one does not; a feature that is lost in it has the change of the others."""
    pixels = np.zeros((3, 2), np.float32)
    rough = Corners(np.array([3, 5, 8]), pixels, np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    exact = Corners(np.array([5, 8, 9]), pixels, np.array([[2, 5], [4, 9], [7, 7]], np.float32))
    other = Corners(np.array([3, 5, 8]), pixels, np.full((3, 2), 100, np.float32))
    buffer = SlidingBuffer(WindowConfig(size=3, overlap=1))
    buffer.add(replace(keyframe(0), corners=rough))
    for corners in (exact, other):
        assert buffer.next_image(lambda corners=corners: corners) is None
    buffer.add(keyframe(1))
    window = buffer.flush()
    assert window is not None and window.keyframes[0].corners is not None
    np.testing.assert_array_equal(window.keyframes[0].corners.velocity, [[0, 4], [2, 5], [4, 9]])
    np.testing.assert_array_equal(window.keyframes[0].corners.ids, rough.ids)


def test_without_a_track_into_the_next_image_the_velocity_stays():
    """There is nothing else to tell it by."""
    rough = Corners(np.array([3]), np.zeros((1, 2), np.float32), np.array([[1, 2]], np.float32))
    np.testing.assert_array_equal(rough.with_velocity(nothing()).velocity, rough.velocity)
