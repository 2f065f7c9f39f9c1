"""Submaps, where the chain of windows broke: which of them loops connect, and how a loop puts one beside another.

Nodes are the rows of the tree of overlaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import inverse
from vggt_ros.pose_graph.consistency import Loop
from vggt_ros.pose_graph.spanning_tree import SpanningTree

UNKNOWN = np.diag([3.0] * 3 + [1e3] * 3 + [2.0]) ** 2
"""Covariance of where a submap lies in the map if nothing tells: nearly nothing is known."""


class Submaps:
    """The submaps of a tree of overlaps, numbered 0, 1, ... as they began.

    Attributes:
        of: the submap of each row.
        anchor: the first row of each.
        behind: of each, the one at which the chain broke; -1 where nothing tells of its place.

    """

    def __init__(self) -> None:
        """Begin without any."""
        self.of: list[int] = []
        self.anchor: list[int] = []
        self.behind: list[int] = []

    def begin(self, row: int, behind: int) -> None:
        """Begin a submap with a new row."""
        self.of.append(len(self.anchor))
        self.anchor.append(row)
        self.behind.append(behind)

    def within(self, loop: Loop) -> bool:
        """Return whether both ends of a loop are in one."""
        return self.of[loop.first_row] == self.of[loop.second_row]

    def connected(self, loops: Iterable[Loop]) -> list[int]:
        """Return for each the oldest one that loops connect it with."""
        return _united(range(len(self.anchor)), ((self.of[loop.first_row], self.of[loop.second_row]) for loop in loops))

    def related(self, loops: Iterable[Loop]) -> list[int]:
        """Return for each the oldest one to which loops, or places at which the chain broke, tell how it lies."""
        return _united(self.connected(loops), ((s, behind) for s, behind in enumerate(self.behind) if behind >= 0))

    def assembled(self, place: Array, label: Sequence[int], loops: Iterable[Loop]) -> Array:
        """Return places (n, 4, 4) with the younger of two components where the first loop between them sees it.

        Args:
            place: (n, 4, 4), of the rows now.
            label: of each submap, the oldest one of its component.
            loops: those that are to hold the components together.

        """
        place, component, submaps = place.copy(), np.array(label), np.array(self.of)
        for loop in loops:
            first, second = component[submaps[[loop.first_row, loop.second_row]]].tolist()
            if first < second:
                row, target = loop.second_row, place[loop.first_row] @ loop.matrix
            elif first > second:
                row, target = loop.first_row, place[loop.second_row] @ inverse(loop.matrix[None])[0]
            else:
                continue
            moved = component[submaps] == max(first, second)
            place[moved] = target @ inverse(place[row, None])[0] @ place[moved]
            component[component == max(first, second)] = min(first, second)
        return place

    def join(self, tree: SpanningTree, label: Sequence[int], loop: Loop) -> None:
        """Move the younger of two components, by `label` as above, to where a loop sees it."""
        place = self.assembled(tree.place, label, [loop])
        younger = max(label[self.of[row]] for row in (loop.first_row, loop.second_row))
        if self.behind[younger] >= 0:  # the place at which the chain broke goes on to speak
            tree.move(place)
            return
        moved = [value == younger for value in label]
        for submap, behind in enumerate(self.behind):
            moved[submap] = moved[submap] or (label[submap] == submap and behind >= 0 and moved[behind])
        rows, one = np.flatnonzero(np.array(moved)[self.of]), self.anchor[younger]
        tree.shift(rows, place[one] @ inverse(tree.place[one, None])[0])


def _united(label: Sequence[int], pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return the labels of submaps after those of each pair have become one, the smaller."""
    label = list(label)
    for pair in pairs:
        low, high = sorted(label[submap] for submap in pair)
        label = [low if value == high else value for value in label]
    return label
