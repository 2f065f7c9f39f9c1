"""The transformer block used in all stages of VGGT, and its rotary position embedding (RoPE)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the convention of torch)

RotaryTable = tuple[Tensor, Tensor]
"""Cosines and sines (N, head_dim) of the rotary position embedding of N tokens."""
BlockRunner = Callable[[nn.Module, Tensor, "RotaryTable | None"], Tensor]
"""Runs a block on tokens, as `run_block`; another one may run it compiled."""


class Linear(nn.Linear):
    """A linear layer whose weights may be stored in another type than the one it computes in."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for x (..., in), in the type of `x`, or in that of autocast if it is enabled."""
        if x.dtype == self.weight.dtype or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch (Touvron et al., CaiT, 2021)."""

    def __init__(self, dim: int) -> None:
        """Initialize the factors with one; the trained ones are loaded."""
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Return x (..., dim) with the scaled branch (..., dim) added."""
        return torch.addcmul(x, branch, self.gamma)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        """Create the layers dim -> hidden -> out."""
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for x (..., dim)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head self-attention; optionally with normalized q and k, and with rotary position embedding.

    Attributes:
        fused: runs `place` in one kernel, for any shape; None to run it step by step.

    """

    fused: Callable[..., tuple[Tensor, Tensor]] | None = None

    def __init__(self, dim: int, heads: int, qk_norm: bool) -> None:
        """Create the projections; `qk_norm` adds a LayerNorm over each head's channels of q and k."""
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, table: RotaryTable | None = None) -> Tensor:
        """Return (B, N, dim) for x (B, N, dim)."""
        batch, count, dim = x.shape
        q, k, v = self.qkv(x).view(batch, count, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        if table is None:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        elif torch.compiler.is_compiling() or self.fused is None:
            q, k = place(q, k, self.q_norm, self.k_norm, table)
        else:
            q, k = self.fused(q, k, self.q_norm, self.k_norm, table)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, count, dim))


class Block(nn.Module):
    """A pre-norm transformer block with LayerScale."""

    def __init__(self, dim: int, heads: int, qk_norm: bool = False, eps: float = 1e-5) -> None:
        """Create a block; the LayerNorms of DINOv2 have an `eps` of 1e-6, all others 1e-5."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim, dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, table: RotaryTable | None = None) -> Tensor:
        """Return (B, N, dim) for x (B, N, dim); `table` as from `rope`, for all N tokens."""
        x = self.ls1(x, self.attn(self.norm1(x), table))
        return self.ls2(x, self.mlp(self.norm2(x)))


def run_block(block: nn.Module, x: Tensor, table: RotaryTable | None = None) -> Tensor:
    """Return the result of a block."""
    result: Tensor = block(x, table)
    return result


def place(q: Tensor, k: Tensor, q_norm: nn.Module, k_norm: nn.Module, table: RotaryTable) -> tuple[Tensor, Tensor]:
    """Return q and k (B, heads, N, head_dim) normalized and with RoPE, in their own type."""
    return apply_rope(q_norm(q), table).to(q.dtype), apply_rope(k_norm(k), table).to(k.dtype)


def apply_rope(x: Tensor, table: RotaryTable) -> Tensor:
    """Return x (..., N, head_dim) with RoPE: first half of the channels by y, last half by x (Su et al., RoFormer)."""
    cosines, sines = table
    halves = x.unflatten(-1, (2, 2, -1))  # (axis, first or second channel of a pair, frequency)
    rotated_half = torch.stack((-halves[..., 1, :], halves[..., 0, :]), dim=-2).flatten(-3)
    return torch.addcmul(x * cosines, rotated_half, sines)


@lru_cache(maxsize=16)
def rope(rows: int, columns: int, special_tokens: int, frames: int, head_dim: int, device: torch.device) -> RotaryTable:
    """Return cosines and sines (frames * (special_tokens + rows * columns), head_dim) for the aggregator's tokens.

    Patches have positions (y, x) from 1; special tokens have position (0, 0), where the embedding is the identity.
    Cached by size.
    """
    frequencies = 100.0 ** (-torch.arange(0, head_dim // 2, 2, dtype=torch.float32, device=device) / (head_dim // 2))
    y, x = torch.meshgrid(torch.arange(1, rows + 1, device=device), torch.arange(1, columns + 1, device=device),
                          indexing="ij")
    patches = torch.stack((y.flatten(), x.flatten()), dim=-1)
    positions = torch.cat((patches.new_zeros(special_tokens, 2), patches)).float()
    angles = (positions[:, :, None] * frequencies).repeat(frames, 1, 2).flatten(1)
    return angles.cos(), angles.sin()
