"""Which photos without an order in time are reconstructed together.

In their order by name, or by what they show; those that got no pose then are tried again, together with the ones that
look like them and have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vggt_ros.features.appearance import describe
from vggt_ros.geometry.poses import Array
from vggt_ros.images.flow import coarse_flow
from vggt_ros.slam import Slam
from vggt_ros.windows.keyframe import Keyframe, Window

_FOLLOWED, _IN_ORDER = 0.5, 0.8
"""Share of corners that are found in the next image if it continues the one before, and share of images that do so in a
video: three quarters to all do in videos, down to one image a second, and a third at most among photos."""
_SIDE = 518
"""Longest side at which that is tried, px."""
_TRIES = 2
"""How often a photo that got no pose is tried again."""


def similarities(keyframes: Sequence[Keyframe]) -> Array:
    """Return how similar keyframes look (n, n): the products of place descriptors, see `features/appearance.py`."""
    found = np.array([describe(np.asarray(cv2.cvtColor(keyframe.image, cv2.COLOR_RGB2GRAY), np.uint8), None)[1]
                      for keyframe in keyframes], np.float64)
    return np.asarray(found @ found.T)


def similarity_order(similar: Array) -> list[int]:
    """Return the rows of photos, of `similarities` (n, n), from the first on: each most like the three before it."""
    order = [0]
    while len(order) < len(similar):
        left = np.setdiff1d(np.arange(len(similar)), order)
        # The newest three: a window shares some with the one before.
        order.append(int(left[np.argmax(similar[order[-3:]][:, left].max(0))]))
    return order


def are_in_order(keyframes: Sequence[Keyframe]) -> bool:
    """Return whether photos are consecutive images of a video: optical flow follows most of one into the next."""
    grays = [_small_gray(keyframe.image) for keyframe in keyframes]
    return len(grays) > 2 and float(np.mean([_is_followed(*pair) for pair in pairwise(grays)])) >= _IN_ORDER


def _small_gray(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, _SIDE / max(gray.shape))
    return np.asarray(cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _is_followed(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Return whether most corners of an image are found in another one, and back."""
    corners = cv2.goodFeaturesToTrack(one, 200, 0.01, 8)
    if corners is None:
        return False
    points = corners[:, 0]
    guess = coarse_flow(one, other, points)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(one, other, points, points + guess, flags=cv2.OPTFLOW_USE_INITIAL_FLOW)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(other, one, moved, moved - guess,
                                                   flags=cv2.OPTFLOW_USE_INITIAL_FLOW)
    good = (found[:, 0] > 0) & (found_back[:, 0] > 0) & (np.linalg.norm(back - points, axis=1) < 1.0)
    return bool(good.mean() > _FOLLOWED)


def group_of_missing(similar: Array, placed: NDArray[np.bool_], tried: NDArray[np.intp],
                     size: int) -> tuple[list[int], list[int]]:
    """Return rows of placed photos, a third of `size`, and of as many as fit of those that are not.

    Those that were tried least are first, then those that look most like a placed one or one of the group; without
    placed ones the group begins with the photo that most others look like.

    Args:
        similar: of `similarities` (n, n).
        placed: (n,), the photos that have a pose.
        tried: (n,), how often the others were tried.
        size: of the window.

    """
    near = similar[:, placed].max(1) if placed.any() else np.median(similar, axis=1)
    candidates = ~placed & (tried == tried[~placed].min())
    group: list[int] = []
    while len(group) < size - size // 3 * placed.any() and candidates.any():
        group.append(int(np.argmax(np.where(candidates, near, -np.inf))))
        candidates[group[-1]] = False
        near = np.maximum(near, similar[group[-1]]) if len(group) > 1 or placed.any() else similar[group[-1]]
    nearness = np.where(placed, similar[:, group].max(1), -np.inf)
    known = np.argsort(-nearness, kind="stable")[:min(size // 3, int(placed.sum()))]
    return sorted(known.tolist()), group


class PhotoWindows:
    """Solves windows of photos, by their rows; keyframe ids are in the order in which the photos were tried first."""

    def __init__(self, slam: Slam, keyframes: Sequence[Keyframe]) -> None:
        """Begin with none; `keyframes` are all photos, whose ids are their rows, whatever their stamps."""
        self.ids: dict[int, int] = {}
        self._slam, self._keyframes = slam, keyframes
        self._refused: list[tuple[list[int], str]] = []
        self._count = 0

    def solve(self, rows: Sequence[int], shared: Sequence[int], unordered: bool = True) -> None:
        """Solve a window of photos, of which the `shared` ones were in windows before."""
        for row in rows:
            self.ids.setdefault(row, len(self.ids))
        window = Window(self._count, tuple(
            replace(self._keyframes[row], id=self.ids[row], stamp=(self.ids[row] + 1) * 10**9, unordered=unordered)
            for row in sorted(rows, key=self.ids.__getitem__)), tuple(sorted(self.ids[row] for row in shared)))
        self._count += 1
        if refused := self._slam.step(window).refused:
            self._refused.append((list(rows), refused))

    @cached_property
    def similar(self) -> Array:
        """Their `similarities` (n, n)."""
        return similarities(self._keyframes)

    def retry(self, size: int, progress: bool) -> None:
        """Try photos without a pose again, with those that look like them and have one: each `_TRIES` times at most.

        Args:
            size: of the windows.
            progress: show a bar.

        """
        count = len(self._keyframes)
        tried = np.zeros(count, np.intp)
        with tqdm(desc="once more", unit="window", disable=not progress) as bar:
            while True:
                placed = np.zeros(count, bool)
                placed[list(self.rows_of_solution())] = True
                elsewhere = np.isin([self.ids[row] for row in range(count)], self._slam.solution.ids) & ~placed
                tried[elsewhere] = _TRIES
                if placed.all() or tried[~placed].min() >= _TRIES or not (placed.any() or count > size):
                    return
                shared, group = group_of_missing(self.similar, placed, tried, size)
                self.solve([*shared, *group], shared)
                tried[group] += 1
                bar.update()

    def rows_of_solution(self) -> dict[int, int]:
        """Return the rows of the photos in the largest submap with their rows in the solution."""
        solution = self._slam.solution
        if not len(solution.ids):
            return {}
        row_of = {keyframe: row for row, keyframe in self.ids.items()}
        return {row_of[int(solution.ids[at])]: int(at)
                for at in np.flatnonzero(solution.submaps == solution.largest_submap)}

    def refusals(self, placed: set[int]) -> list[str]:
        """Return why windows were refused that had photos which are not `placed`."""
        return [f"photos {min(rows) + 1} to {max(rows) + 1}: {text}" for rows, text in self._refused
                if not placed.issuperset(rows)]
