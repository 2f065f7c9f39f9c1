"""The camera head: regresses translation, rotation and field of view from one token per frame, iteratively."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the convention of torch)

from vggt_ros.reconstruction.vggt.model.blocks import Block, Linear, Mlp
from vggt_ros.reconstruction.vggt.model.sizes import Sizes

POSE = 9
"""Length of a pose encoding: translation 3, quaternion x y z w, field of view across height and width in radians."""


class CameraHead(nn.Module):
    """Predicts the cameras of all frames jointly, with attention across the frames."""

    def __init__(self, sizes: Sizes) -> None:
        """Create the head."""
        super().__init__()
        dim = 2 * sizes.embed_dim
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE))
        self.trunk = nn.ModuleList(Block(dim, sizes.camera_heads) for _ in range(sizes.camera_depth))
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.embed_pose = Linear(POSE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), Linear(dim, 3 * dim))
        self.pose_branch = Mlp(dim, dim // 2, POSE)

    def forward(self, tokens: Tensor, iterations: int = 4) -> Tensor:
        """Return pose encodings (S, 9) for the camera tokens (S, 2 dim) of the last layer.

        The camera-from-world translation and the quaternion are returned as regressed, not normalized; the fields of
        view are not negative.
        """
        tokens = self.token_norm(tokens)[None]
        normed = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        estimate = self.empty_pose_tokens.expand(1, tokens.shape[1], POSE)
        pose = torch.zeros_like(estimate)
        for _ in range(iterations):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(estimate)).chunk(3, dim=-1)
            x = gate * (normed * (1 + scale) + shift) + tokens
            for block in self.trunk:
                x = block(x)
            # The correction is added to the raw value; the activation is applied after the last iteration.
            pose = estimate = pose + self.pose_branch(self.trunk_norm(x))
        return torch.cat((pose[..., :7], pose[..., 7:].relu()), dim=-1)[0]
