"""Filtering of depth and ranking of confidence on the device, so that less has to be copied to the host."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

RANKS = 256
"""Number of confidence ranks: one byte per pixel, which is also the resolution stored in a keyframe."""
_MAX_SAMPLES = 100_000


class FilterSettings(Protocol):
    """The settings of a network that say which depth is dropped."""

    @property
    def min_raw_confidence(self) -> float:
        """Depth of lower raw confidence is dropped."""

    @property
    def edge_jump(self) -> float:
        """Depth is dropped where its logarithm jumps by more from pixel to pixel; 0: never."""

    @property
    def far(self) -> float:
        """Depth beyond this multiple of the window's median is dropped; 0: none."""


def filter_points(depth: Tensor, depth_conf: Tensor, settings: FilterSettings) -> tuple[Tensor, Tensor]:
    """Return depth (S, H, W), NaN where unknown or filtered out, and confidence ranks, uint8 (S, H, W), 0 there.

    No operation synchronizes with the device; `torch.nanmedian` does on a GPU.
    """
    unknown = ~(depth.isfinite() & depth_conf.isfinite() & (depth > 0)) | (depth_conf < settings.min_raw_confidence)
    if settings.edge_jump > 0:
        unknown = unknown | at_depth_edge(depth, settings.edge_jump)
    if settings.far > 0:
        unknown = unknown | (depth > settings.far * median_of(depth, ~unknown))
    return depth.masked_fill(unknown, torch.nan), rank(depth_conf).masked_fill(unknown, 0)


def median_of(values: Tensor, valid: Tensor) -> Tensor:
    """Return the median of those values that are `valid`, the lower one of two; infinite if none is."""
    in_order = values.masked_fill(~valid, torch.inf).flatten().sort().values
    return in_order.gather(0, ((valid.sum() - 1) // 2).clamp(min=0)[None])[0]


def rank(values: Tensor) -> Tensor:
    """Return the ranks of `values`, uint8, `RANKS` - 1 for the best; only the order of confidences is meaningful."""
    flat = values.flatten()
    sample = flat[:: max(1, flat.numel() // _MAX_SAMPLES)].nan_to_num().sort().values
    quantile_rows = torch.arange(1, RANKS, device=values.device) * (len(sample) - 1) // RANKS
    return torch.bucketize(values, sample[quantile_rows], right=True, out_int32=True).to(torch.uint8)


def at_depth_edge(depth: Tensor, jump: float) -> Tensor:
    """Return the mask of depth edges: log depth (S, H, W) differs by more than `jump` from a neighboring pixel.

    Points at depth edges lie between the surfaces.
    """
    edge = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (1, 2):
        jumps = depth.log().diff(dim=axis).abs() > jump
        count = jumps.shape[axis]
        edge.narrow(axis, 0, count).logical_or_(jumps)
        edge.narrow(axis, 1, count).logical_or_(jumps)
    return edge
