"""The aggregator: attention blocks that alternate between the tokens of one frame and the tokens of all frames.

Wang et al., VGGT: Visual Geometry Grounded Transformer, CVPR 2025 (arXiv 2503.11651).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

import torch
from torch import Tensor, nn

from vggt_ros.reconstruction.vggt.model.blocks import Block, BlockRunner, RotaryTable, rope, run_block
from vggt_ros.reconstruction.vggt.model.encoder import Encoder
from vggt_ros.reconstruction.vggt.model.sizes import Sizes

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class Aggregator(nn.Module):
    """Computes tokens with attention across all frames; the first frame is the reference frame."""

    def __init__(self, sizes: Sizes) -> None:
        """Create the aggregator."""
        super().__init__()
        self.sizes = sizes
        dim = sizes.embed_dim
        self.patch_embed = Encoder(sizes)
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, sizes.registers, dim))
        self.frame_blocks = nn.ModuleList(Block(dim, sizes.heads, qk_norm=True) for _ in range(sizes.depth))
        self.global_blocks = nn.ModuleList(Block(dim, sizes.heads, qk_norm=True) for _ in range(sizes.depth))

    @property
    def special_tokens(self) -> int:
        """Number of tokens of a frame before its patch tokens: the camera token and the registers."""
        return 1 + self.sizes.registers

    def encode(self, images: Tensor, run: BlockRunner = run_block) -> Tensor:
        """Return the encoder's tokens (S, rows * columns, dim) of RGB images (S, 3, H, W) in [0, 1]."""
        mean, deviation = normalization(images.device)
        return self.patch_embed((images - mean) / deviation, run)

    def rotary_tables(self, grid: tuple[int, int], frames: int,
                      device: torch.device) -> tuple[RotaryTable, RotaryTable]:
        """Return the rotary position tables for one frame and for `frames` frames; cached by size."""
        head_dim = self.sizes.embed_dim // self.sizes.heads
        within, across = (rope(*grid, self.special_tokens, count, head_dim, device) for count in (1, frames))
        return within, across

    def forward(self, patches: Tensor, rotary_tables: tuple[RotaryTable, RotaryTable],
                keep: Collection[int], run: BlockRunner = run_block) -> dict[int, Tensor]:
        """Return the outputs of the layers `keep`, each (S, special_tokens + rows * columns, 2 dim).

        Args:
            patches: the encoder's tokens, (S, rows * columns, dim), the reference frame first.
            rotary_tables: as the method `rotary_tables` returns them.
            keep: indices of the layers whose output is returned; the other outputs are freed immediately.
            run: runs a block.

        """
        frames = len(patches)
        # (2, special_tokens, dim): those of the first frame, those of all other frames.
        frame_tokens = torch.cat((self.camera_token, self.register_token), dim=2)[0]
        x = torch.cat((torch.cat((frame_tokens[:1], frame_tokens[1:].expand(frames - 1, -1, -1))), patches), dim=1)
        within, across = rotary_tables
        kept = {}
        for layer, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            local = run(frame_block, x, within)
            x = run(global_block, local.flatten(0, 1)[None], across).view_as(local)
            if layer in keep:
                kept[layer] = torch.cat((local, x), dim=-1)
        return kept


@lru_cache(maxsize=4)
def normalization(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ImageNet mean and standard deviation, (3, 1, 1) each; cached, since a copy to the device synchronizes."""
    mean, deviation = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return mean, deviation
