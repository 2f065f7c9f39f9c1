"""Several maps as one record: their arrays one after the other, with new ids, each map in submaps of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from vggt_ros.features.appearance import VLAD_SIZE, describe
from vggt_ros.storage.map_record import SCHEMA, MapRecord

_LOG = logging.getLogger(__name__)
_NODE_GAP = 1000
"""Numbers that are left free between the nodes of two maps: nodes with close numbers count as neighbors in time."""
_OFFSETS = {"keyframe_id": "keyframe", "keyframe_submap": "submap", "keyframe_window": "node", "window_id": "node",
            "node_window": "window", "anchor": "node", "edge_first": "node", "edge_second": "node"}
"""Arrays of numbers that begin at zero in every map, and what they number."""


def combine(records: Sequence[MapRecord]) -> MapRecord:
    """Return a record with the keyframes, graphs and loops of maps in the order given; nothing connects the maps.

    Every map keeps its own frame and units; the upright pose is that of the first one. The submap that grows is the one
    of the newest keyframe of the last map, with what that map knows of its scale. Place descriptors by a reconstructor
    are kept if all maps have the same kind; keyframes without `appearance` get it from their image in the map.

    Raises:
        ValueError: there is no map.

    """
    if not records:
        raise ValueError("there is no map to combine")
    values: dict[str, Any] = {name: [] for name in SCHEMA}
    offset = {"keyframe": 0, "submap": 0, "node": 0, "window": 0}
    described = {record.descriptor.shape[1] for record in records if len(record.descriptor)}
    if len(described) > 1:
        _LOG.warning("the place descriptors by the reconstructors are left out: the maps have different kinds, of %s "
                     "numbers", " and ".join(map(str, sorted(described))))
    for record in records:
        for name in SCHEMA:
            array = getattr(record, name)
            values[name].append(array + offset[_OFFSETS[name]] if name in _OFFSETS else array)
        values["appearance"][-1] = _appearance(record)
        if len(described) != 1:
            values["descriptor"][-1] = np.zeros((0, 0), np.float32)
            values["keyframe_described"][-1] = np.zeros(len(record), np.bool_)
        elif not len(record.descriptor):
            values["descriptor"][-1] = np.zeros((0, *described), np.float32)
        offset["keyframe"] += record.next_keyframe
        offset["window"] += record.next_window
        offset["submap"] += len(record.anchor)
        offset["node"] += int(record.window_id.max()) + 1 + _NODE_GAP
    last = records[-1]
    scalars: dict[str, Any] = {field.name: getattr(last, field.name) for field in fields(MapRecord)
                               if field.name not in SCHEMA}
    arrays: dict[str, Any] = {name: np.concatenate(parts) for name, parts in values.items()}
    return MapRecord(**arrays, **scalars | {
        "submap": int(arrays["keyframe_submap"][-1]), "next_keyframe": offset["keyframe"],
        "next_window": offset["window"], "map_world": records[0].map_world})


def _appearance(record: MapRecord) -> np.ndarray:
    """Return the place descriptors (k, 2048) of a map, computed from its colors where it was saved without them."""
    if record.appearance.shape[1] == VLAD_SIZE:
        return record.appearance
    ends, found = np.cumsum(record.keyframe_size.prod(1)), []
    for (height, width), end in zip(record.keyframe_size.tolist(), ends.tolist(), strict=True):
        found.append(describe(record.color[end - height * width:end].reshape(height, width, 3))[1])
    return np.array(found, np.float16)
