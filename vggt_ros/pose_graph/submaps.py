"""Submaps, which begin where the chain of windows breaks: which of them loops connect, and how a loop aligns them.

Nodes are rows of the spanning tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import inverse, scales
from vggt_ros.pose_graph.consistency import Loop
from vggt_ros.pose_graph.spanning_tree import SpanningTree

UNCONSTRAINED_COVARIANCE = np.diag([3.0] * 3 + [1e3] * 3 + [2.0]) ** 2
"""Covariance of the pose of a submap in the map when nothing constrains it: nearly no information."""


class Submaps:
    """The submaps of a spanning tree, numbered 0, 1, ... in the order in which they began.

    Attributes:
        of_row: the submap of each row.
        anchor_row: the first row of each submap.
        break_parent: for each submap, the one that its break attaches it to; -1 where nothing constrains its pose.
        reach: of submaps, the row of the last node before the break, and how far from it the camera can have come until
            the first node, in units of that row.

    """

    def __init__(self) -> None:
        """Begin without any."""
        self.of_row: list[int] = []
        self.anchor_row: list[int] = []
        self.break_parent: list[int] = []
        self.reach: dict[int, tuple[int, float]] = {}

    def begin(self, row: int, break_parent: int) -> None:
        """Begin a submap with a new row."""
        self.of_row.append(len(self.anchor_row))
        self.anchor_row.append(row)
        self.break_parent.append(break_parent)

    def is_within_one(self, loop: Loop) -> bool:
        """Return whether both ends of a loop are in the same submap."""
        return self.of_row[loop.first_row] == self.of_row[loop.second_row]

    def components(self, loops: Iterable[Loop]) -> list[int]:
        """Return for each submap its connected component by the loops, labeled by the oldest submap in it."""
        return _merged_labels(range(len(self.anchor_row)),
                              ((self.of_row[loop.first_row], self.of_row[loop.second_row]) for loop in loops))

    def constrained_components(self, loops: Iterable[Loop]) -> list[int]:
        """Return for each submap its connected component by the loops and the breaks, labeled as in `components`."""
        return _merged_labels(self.components(loops),
                              ((s, parent) for s, parent in enumerate(self.break_parent) if parent >= 0))

    def joined_poses(self, poses: Array, label: Sequence[int], loops: Iterable[Loop]) -> Array:
        """Return poses (n, 4, 4) after moving the younger of two components to where the first loop between them is.

        Args:
            poses: (n, 4, 4), the current ones of the rows.
            label: of each submap, its component.
            loops: those that are to connect the components.

        """
        poses, component, submaps = poses.copy(), np.array(label), np.array(self.of_row)
        for loop in loops:
            first, second = component[submaps[[loop.first_row, loop.second_row]]].tolist()
            if first < second:
                row, target = loop.second_row, poses[loop.first_row] @ loop.matrix
            elif first > second:
                row, target = loop.first_row, poses[loop.second_row] @ inverse(loop.matrix[None])[0]
            else:
                continue
            moved = component[submaps] == max(first, second)
            poses[moved] = target @ inverse(poses[row, None])[0] @ poses[moved]
            component[component == max(first, second)] = min(first, second)
        return poses

    def out_of_reach(self, poses: Array, loop: Loop, loops: Sequence[Loop]) -> tuple[float, float] | None:
        """Return how far a loop between submaps makes the camera move in a break, and how far it can have come.

        Both are in map units; None if it can have come so far, or if nothing is known. `poses` (n, 4, 4) are those with
        the accepted `loops`.
        """
        if not self.reach:
            return None
        before, after = self.components(loops), self.components([*loops, loop])
        joined = self.joined_poses(poses, before, [loop])
        for submap, (row, radius) in self.reach.items():
            other = self.of_row[row]
            if before[submap] != before[other] and after[submap] == after[other]:
                distance = float(np.linalg.norm(joined[self.anchor_row[submap], :3, 3] - joined[row, :3, 3]))
                limit = radius * float(scales(joined[row, None])[0])
                if distance > limit:
                    return distance, limit
        return None

    def join(self, tree: SpanningTree, label: Sequence[int], loop: Loop) -> None:
        """Move the younger of the two components that a loop connects to where the loop measures it."""
        poses = self.joined_poses(tree.poses, label, [loop])
        younger = max(label[self.of_row[row]] for row in (loop.first_row, loop.second_row))
        if self.break_parent[younger] >= 0:  # its break stays a factor, so only the poses change
            tree.set_poses(poses)
            return
        moved = [value == younger for value in label]
        for submap, parent in enumerate(self.break_parent):
            moved[submap] = moved[submap] or (label[submap] == submap and parent >= 0 and moved[parent])
        rows, anchor = np.flatnonzero(np.array(moved)[self.of_row]), self.anchor_row[younger]
        tree.transform_rows(rows, poses[anchor] @ inverse(tree.poses[anchor, None])[0])


def _merged_labels(label: Sequence[int], pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return the labels of submaps after the components of each pair are merged under the smaller label."""
    label = list(label)
    for pair in pairs:
        low, high = sorted(label[submap] for submap in pair)
        label = [low if value == high else value for value in label]
    return label
