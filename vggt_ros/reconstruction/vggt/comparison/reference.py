"""Inference in the way of the published code, as the baseline for benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from vggt_ros.reconstruction.vggt.model.blocks import rope
from vggt_ros.reconstruction.vggt.model.dpt_head import plane_positions
from vggt_ros.reconstruction.vggt.model.network import Network


@torch.inference_mode()
def run_reference(network: Network, images: Tensor, compute: torch.dtype) -> dict[str, Tensor]:
    """Return cameras, depth and points of images (S, 3, H, W), as `Network.decode` does, run as in the published code.

    That is: autocast with float32 weights, the outputs of all layers kept, position tables computed in every call,
    eight frames at a time in the dense heads, which run in float32, and no tokens reused.
    """
    rope.cache_clear()
    plane_positions.cache_clear()
    network.aggregator.patch_embed.position_tables.clear()
    network.chunk = 8
    with torch.autocast(images.device.type, compute if compute != torch.float32 else torch.bfloat16,
                        enabled=compute != torch.float32):
        patches = network.aggregator.encode(images)
        layers = network.aggregate(patches, images.shape[2:], keep=range(network.sizes.depth))
    return network.decode({layer: value.float() for layer, value in layers.items()}, images.shape[2:],
                          ("cameras", "depth", "points"))
