"""Submaps, where the chain of windows broke: which of them loops connect, and how a loop puts one beside another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vggt_ros.consensus import Loop
from vggt_ros.geometry import Array
from vggt_ros.similarities import inverse


def connected(count: int, submap: Sequence[int], loops: Iterable[Loop]) -> list[int]:
    """Return for each of `count` submaps the oldest one that loops connect it with; `submap` is that of each row."""
    label = list(range(count))
    for loop in loops:
        low, high = sorted((label[submap[loop.first_row]], label[submap[loop.second_row]]))
        label = [low if value == high else value for value in label]
    return label


def assembled(place: Array, submap: Sequence[int], label: Sequence[int], loops: Iterable[Loop]) -> Array:
    """Return places (w, 4, 4) with the younger of two components where the first loop between them sees it.

    Args:
        place: (w, 4, 4), of the rows now.
        submap: of each row.
        label: of each submap, the oldest one of its component.
        loops: those that are to hold the components together.

    """
    place, component, submaps = place.copy(), np.array(label), np.array(submap)
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
