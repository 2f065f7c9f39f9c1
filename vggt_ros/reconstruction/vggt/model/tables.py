"""The cached tables of the network: they are on the device, and have to go when the network does."""

from __future__ import annotations

from vggt_ros.reconstruction.vggt.model.aggregator import normalization
from vggt_ros.reconstruction.vggt.model.blocks import rope
from vggt_ros.reconstruction.vggt.model.dpt_head import plane_positions
from vggt_ros.reconstruction.vggt.model.track_head import plane_table


def clear_tables() -> None:
    """Drop all tables; they are computed again when they are needed. Those of the encoder belong to the network."""
    for table in (normalization, rope, plane_positions, plane_table):
        table.cache_clear()
