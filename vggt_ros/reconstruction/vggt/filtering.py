"""Which points of a window are left out, decided where the network runs, so that less has to be copied."""

from __future__ import annotations

import torch
from torch import Tensor

from vggt_ros.config import VggtConfig

RANKS = 256
"""Steps of a confidence's rank: a byte a pixel to copy, and as many as are kept of a keyframe."""
_SAMPLE = 100_000


def filter_points(depth: Tensor, depth_conf: Tensor, settings: VggtConfig) -> tuple[Tensor, Tensor]:
    """Return depth (S, H, W), NaN where unknown or left out, and its confidence's rank, uint8 (S, H, W), there 0.

    Nothing here waits for the device.
    """
    unknown = ~(depth.isfinite() & depth_conf.isfinite() & (depth > 0)) | (depth_conf < settings.min_raw_confidence)
    if settings.edge_jump > 0:
        unknown = unknown | on_edge(depth, settings.edge_jump)
    if settings.far > 0:
        median = depth.masked_fill(unknown, torch.nan).nanmedian()
        unknown = unknown | (depth > settings.far * median)
    return depth.masked_fill(unknown, torch.nan), rank(depth_conf).masked_fill(unknown, 0)


def rank(values: Tensor) -> Tensor:
    """Return the ranks of `values`, uint8, the best `RANKS` - 1: VGGT's confidences mean no more than an order."""
    flat = values.flatten()
    sample = flat[:: max(1, flat.numel() // _SAMPLE)].nan_to_num().sort().values
    steps = torch.arange(1, RANKS, device=values.device) * (len(sample) - 1) // RANKS
    return torch.bucketize(values, sample[steps], right=True, out_int32=True).to(torch.uint8)


def on_edge(depth: Tensor, jump: float) -> Tensor:
    """Return where the logarithm of depth (S, H, W) steps by more than `jump` to a neighbor: points float there."""
    edge = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (1, 2):
        steep = depth.log().diff(dim=axis).abs() > jump
        count = steep.shape[axis]
        edge.narrow(axis, 0, count).logical_or_(steep)
        edge.narrow(axis, 1, count).logical_or_(steep)
    return edge
