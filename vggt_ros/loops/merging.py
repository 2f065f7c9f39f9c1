"""Merging saved maps: parts that show the same places are joined by loops between them, and solved together.

Keyframes of the one that are found in the other join two parts; then their surfaces are registered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config
from vggt_ros.loops.common_places import find_keyframes, measure
from vggt_ros.loops.look_alikes import evidence
from vggt_ros.loops.surface_registration import register_surfaces
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.storage.combined_record import combine
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.windows.solution import OBSERVED, PRIOR, UNKNOWN, MetricScale, Solution

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Part:
    """Keyframes of one map that were connected before: all of it, or one of its submaps.

    Attributes:
        name: of the map, with the number of the submap if it has several.
        submap: number of the submap in the merged map before anything was joined.
        keyframes: their ids (n,) in the merged map.
        joined: names of the parts that loops join it with directly.
        notes: for each other part in which keyframes of it were found, what became of that.

    """

    name: str
    submap: int
    keyframes: NDArray[np.int64]
    joined: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Merged:
    """A merged map, and its parts with what joins them."""

    record: MapRecord
    atlas: Atlas
    parts: list[Part]

    @property
    def groups(self) -> list[list[str]]:
        """The names of the parts that belong together, the largest group of keyframes first."""
        solution = self.atlas.solution()
        label = {part.name: int(solution.submaps[solution.index(int(part.keyframes[0])) or 0]) for part in self.parts}
        sizes = np.bincount(solution.submaps)
        return [[name for name, own in label.items() if own == one]
                for one in sorted(set(label.values()), key=lambda one: (-sizes[one], one))]


def merge(records: Sequence[MapRecord], names: Sequence[str], config: Config,
          progress: Callable[[int, int], object] = lambda done, total: None) -> Merged:
    """Join maps where they see the same places; what shares no place with another part stays a submap.

    The first map gives the frame; the unit is that of the map whose metric scale is known best, of those joined.
    `progress` is called with how many searches of a keyframe are done, of how many.

    Raises:
        ValueError: there is no map.

    """
    atlas = Atlas(config)
    combined = combine(records)
    atlas.restore(combined)
    solution = atlas.solution()
    parts = _parts(records, names, solution)
    pairs = [(earlier, later) for row, later in enumerate(parts) for earlier in parts[:row]]
    done, total = 0, sum(len(later.keyframes) for _, later in pairs)

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    for earlier, later in pairs:
        _join(earlier, later, atlas, config, advance)
    _take_best_unit(records, atlas, solution)
    record = atlas.record(combined.next_keyframe, combined.next_window, combined.map_world)
    return Merged(record, atlas, parts)


def _take_best_unit(records: Sequence[MapRecord], atlas: Atlas, apart: Solution) -> None:
    """Scale each connected part of the merged map to the unit of that of its maps whose metric scale is known best.

    `apart` is the solution before anything was joined. Of a map with several submaps, only the scale of the one that
    grows is known.
    """
    merged, certainty, ends = atlas.solution(), {UNKNOWN: 0, PRIOR: 1, OBSERVED: 2}, np.cumsum(list(map(len, records)))
    best: dict[int, tuple[tuple[int, float], MapRecord, NDArray[np.int64]]] = {}
    for record, end in zip(records, ends.tolist(), strict=True):
        rows = np.arange(end - len(record), end)
        newest = rows[record.keyframe_submap == record.submap][-1]
        rows = rows[apart.submaps[rows] == apart.submaps[newest]]
        rank = certainty[record.scale_state], -record.scale_sigma
        label = int(merged.submaps[newest])
        if label not in best or rank > best[label][0]:
            best[label] = rank, record, rows
    growing = int(merged.submaps[-1])
    for label, (_, record, rows) in best.items():
        factor = float(np.exp(np.median(np.log(apart.scale[rows] / merged.scale[rows]))))
        metric = MetricScale(record.scale_state, record.scale_sigma, record.scale_source)
        atlas.rescale(factor, metric if label == growing else atlas.metric, int(merged.ids[rows[0]]))


def _parts(records: Sequence[MapRecord], names: Sequence[str], solution: Solution) -> list[Part]:
    """Return the parts of the combined map in the order of the maps."""
    ends = np.cumsum([len(record) for record in records])
    parts = []
    for name, end, record in zip(names, ends.tolist(), records, strict=True):
        rows = slice(end - len(record), end)
        submaps = np.unique(solution.submaps[rows]).tolist()
        parts += [Part(name if len(submaps) == 1 else f"{name}, submap {number}", submap,
                       solution.ids[rows][solution.submaps[rows] == submap])
                  for number, submap in enumerate(submaps)]
    return parts


def _join(earlier: Part, later: Part, atlas: Atlas, config: Config, advance: Callable[[], object]) -> None:
    """Search for the keyframes of a part in an earlier one, and add the loops between them to the graph."""
    solution = atlas.solution()
    part = solution.restricted(np.searchsorted(solution.ids, earlier.keyframes))
    found = find_keyframes(later.keyframes.tolist(), part, config, advance)
    places, refusals = measure(later.keyframes, found, atlas, part, config.windows.size)
    if doubt := evidence(later.keyframes, found, places, solution, part, 2 * config.windows.size).contradiction:
        later.notes.append(f"{len(found)} of {len(later.keyframes)} keyframes found in {earlier.name}, not joined: "
                           f"{doubt}")
        _LOG.warning("%s: %s", later.name, later.notes[-1])
        return
    loops = [atlas.close_loop(place.first, place.second, place.measurement) for place in places]
    accepted = [loop for loop in loops if loop.accepted]
    reasons = refusals + [loop.reason for loop in loops if not loop.accepted]
    if not found:
        later.notes.append(f"none of {len(later.keyframes)} keyframes found in {earlier.name}")
    else:
        later.notes.append(f"{len(found)} of {len(later.keyframes)} keyframes found in {earlier.name}; {len(accepted)} "
                           f"of {len(loops)} loops accepted" + (f" ({reasons[0]})" if reasons else ""))
        _LOG.info("%s: %s", later.name, later.notes[-1])
    if accepted:
        earlier.joined.append(later.name)
        later.joined.append(earlier.name)
        later.notes.append(_register(earlier, later, atlas, config.windows.size,
                                     [(place.first, place.second) for place, loop in zip(places, loops, strict=True)
                                      if loop.accepted]))


def _register(earlier: Part, later: Part, atlas: Atlas, size: int, pairs: Sequence[tuple[int, int]]) -> str:
    """Add a loop between two joined parts by their surfaces; return what became of it."""
    solution = atlas.solution()
    fixed, moved = (solution.restricted(np.searchsorted(solution.ids, part.keyframes)) for part in (earlier, later))
    found = register_surfaces(fixed, moved, size, pairs)
    if found is None:
        return f"its surfaces and those of {earlier.name} have too little in common to be registered"
    first, second, measurement = found
    rows = np.searchsorted(solution.ids, (first, second)).tolist()
    change = solution.similarity(rows[0]) @ measurement.first_second @ solution.similarity(rows[1]).inverse()
    loop = atlas.close_loop(*found)
    return (f"its surfaces were registered with those of {earlier.name}, scale {100 * (change.scale - 1):+.1f} %"
            + ("" if loop.accepted else ", which contradicts its loops and is not used"))
