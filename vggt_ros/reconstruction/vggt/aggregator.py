"""The aggregator: attention that alternates between the tokens of one frame and those of all frames.

Wang et al., VGGT: Visual Geometry Grounded Transformer, CVPR 2025 (arXiv 2503.11651).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

import torch
from torch import Tensor, nn

from vggt_ros.reconstruction.vggt.blocks import Block, Rotation, rope
from vggt_ros.reconstruction.vggt.encoder import Encoder
from vggt_ros.reconstruction.vggt.sizes import Sizes

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class Aggregator(nn.Module):
    """Images to tokens that know of each other; the first frame is the reference."""

    def __init__(self, sizes: Sizes) -> None:
        """Make the aggregator."""
        super().__init__()
        self.sizes = sizes
        dim = sizes.embed_dim
        self.patch_embed = Encoder(sizes)
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, sizes.registers, dim))
        self.frame_blocks = nn.ModuleList(Block(dim, sizes.heads, qk_norm=True) for _ in range(sizes.depth))
        self.global_blocks = nn.ModuleList(Block(dim, sizes.heads, qk_norm=True) for _ in range(sizes.depth))

    @property
    def special(self) -> int:
        """Tokens of a frame before its patches: the camera token and the registers."""
        return 1 + self.sizes.registers

    def encode(self, images: Tensor) -> Tensor:
        """Return the encoder's tokens (S, rows * columns, dim) of RGB images (S, 3, H, W) in [0, 1]."""
        mean, deviation = normalization(images.device)
        return self.patch_embed((images - mean) / deviation)

    def rotations(self, grid: tuple[int, int], frames: int, device: torch.device) -> tuple[Rotation, Rotation]:
        """Return the positions' rotations within a frame and across `frames` frames; made once for a size."""
        head_dim = self.sizes.embed_dim // self.sizes.heads
        within, across = (rope(*grid, self.special, count, head_dim, device) for count in (1, frames))
        return within, across

    def forward(self, patches: Tensor, rotations: tuple[Rotation, Rotation],
                keep: Collection[int]) -> dict[int, Tensor]:
        """Return the outputs of the layers `keep`, each (S, special + rows * columns, 2 dim).

        Args:
            patches: the encoder's tokens, (S, rows * columns, dim), the reference frame first.
            rotations: as `rotations` returns them.
            keep: numbers of the layers whose output is wanted; the others are dropped as soon as they are used.

        """
        frames = len(patches)
        own = torch.cat((self.camera_token, self.register_token), dim=2)[0]  # (2, special, dim): first frame, others
        x = torch.cat((torch.cat((own[:1], own[1:].expand(frames - 1, -1, -1))), patches), dim=1)
        within, across = rotations
        kept = {}
        for layer, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            local = frame_block(x, within)
            x = global_block(local.flatten(0, 1)[None], across).view_as(local)
            if layer in keep:
                kept[layer] = torch.cat((local, x), dim=-1)
        return kept


@lru_cache(maxsize=4)
def normalization(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ImageNet's mean and deviation, (3, 1, 1) each; made once, since every copy to a device makes it wait."""
    mean, deviation = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return mean, deviation
