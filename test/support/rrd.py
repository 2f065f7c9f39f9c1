"""Reading of Rerun's files (.rrd), for tests."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

try:
    from rerun.chunk import RrdReader
except ImportError:  # before 0.41
    from rerun.experimental import RrdReader


@dataclass(frozen=True)
class Row:
    """What was logged at once on an entity: time of the image, nanoseconds, and component to its list of values."""

    time: int | None
    values: dict[str, list[Any]]

    @property
    def cleared(self) -> bool:
        return "Clear:is_recursive" in self.values

    def array(self, component: str) -> np.ndarray:
        return np.array(self.values[component])


def read(path) -> dict[str, list[Row]]:
    """Return entity to its rows in the order in which they were logged."""
    rows = defaultdict(list)
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        names = [name for name in batch.schema.names if name not in ("rerun.controls.RowId", "image", "log_time")]
        for index in range(chunk.num_rows):
            time = batch.column("image")[index].value if "image" in batch.schema.names else None
            values = {name: batch.column(name)[index].as_py() for name in names}
            rows[chunk.entity_path].append((batch.column("rerun.controls.RowId")[index].as_py(), Row(
                time, {name: value for name, value in values.items() if value is not None})))
    return {entity: [row for _, row in sorted(found, key=lambda pair: pair[0])] for entity, found in rows.items()}


def colors(row: Row, component: str) -> np.ndarray:
    """Return the colors (n, 3) of a row: they are stored as 0xRRGGBBAA."""
    packed = row.array(component).astype(np.uint32)
    return np.stack([packed >> 24, packed >> 16 & 255, packed >> 8 & 255], axis=-1)
