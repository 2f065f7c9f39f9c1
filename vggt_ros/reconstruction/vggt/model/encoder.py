"""The image encoder: DINOv2 with registers, a vision transformer over the patches of one image at a time.

Oquab et al., DINOv2, 2023; Darcet et al., Vision Transformers Need Registers, 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the convention of torch)

from vggt_ros.reconstruction.vggt.model.blocks import Block, BlockRunner, run_block
from vggt_ros.reconstruction.vggt.model.sizes import Sizes


class PatchProjection(nn.Module):
    """A linear projection of each patch, implemented as a convolution."""

    def __init__(self, patch: int, dim: int) -> None:
        """Create the projection of patches of `patch` x `patch` pixels."""
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """Return (S, dim, H / patch, W / patch) for images (S, 3, H, W)."""
        return self.proj(images)


class Encoder(nn.Module):
    """DINOv2; images are encoded independently, so that the tokens of a keyframe can be reused in the next window."""

    def __init__(self, sizes: Sizes) -> None:
        """Create the encoder."""
        super().__init__()
        dim = sizes.embed_dim
        self.patch_embed = PatchProjection(sizes.patch, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.encoder_grid**2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, sizes.registers, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # part of the state dict; used in training only
        self.blocks = nn.ModuleList(Block(dim, sizes.heads, eps=1e-6) for _ in range(sizes.encoder_depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.position_tables: dict[tuple[int, int], Tensor] = {}

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the position embedding for a grid of patches, float32 (1, 1 + rows * columns, dim); cached by size."""
        if (rows, columns) not in self.position_tables:
            table = self.pos_embed.detach().float()
            side = int((table.shape[1] - 1) ** 0.5)
            if (rows, columns) != (side, side):
                grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
                grid = F.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
                table = torch.cat((table[:, :1], grid.flatten(2).transpose(1, 2)), dim=1)
            self.position_tables[rows, columns] = table
        return self.position_tables[rows, columns]

    def forward(self, images: Tensor, run: BlockRunner = run_block) -> Tensor:
        """Return the patch tokens (S, H / patch * W / patch, dim) for normalized images (S, 3, H, W)."""
        x = self.patch_embed(images)
        count, _, rows, columns = x.shape
        x = torch.cat((self.cls_token.expand(count, -1, -1), x.flatten(2).transpose(1, 2)), dim=1)
        x = x + self.positions(rows, columns)
        x = torch.cat((x[:, :1], self.register_tokens.expand(count, -1, -1), x[:, 1:]), dim=1)
        for block in self.blocks:
            x = run(block, x, None)
        return self.norm(x)[:, 1 + self.register_tokens.shape[1]:]
