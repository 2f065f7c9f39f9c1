"""The published way to run the network, as the mark that ours is measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from vggt_ros.reconstruction.vggt.blocks import rope
from vggt_ros.reconstruction.vggt.dpt_head import plane_positions
from vggt_ros.reconstruction.vggt.network import Network


@torch.inference_mode()
def reference(network: Network, images: Tensor, compute: torch.dtype) -> dict[str, Tensor]:
    """Return cameras, depth and points of images (S, 3, H, W), as `Network.decode` does, with the published habits.

    Autocast over float32 weights, all layers' outputs kept, tables made in every call, eight frames at a time in the
    dense heads, which run in float32, and no tokens reused.
    """
    rope.cache_clear()
    plane_positions.cache_clear()
    network.aggregator.patch_embed.tables.clear()
    network.chunk = 8
    with torch.autocast(images.device.type, compute if compute != torch.float32 else torch.bfloat16,
                        enabled=compute != torch.float32):
        patches = network.aggregator.encode(images)
        layers = network.aggregate(patches, images.shape[2:], keep=range(network.sizes.depth))
    return network.decode({layer: value.float() for layer, value in layers.items()}, images.shape[2:],
                          ("cameras", "depth", "points"))
