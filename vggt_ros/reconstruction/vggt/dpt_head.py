"""The dense head: tokens of four layers to a map in pixels.

Ranftl et al., Vision Transformers for Dense Prediction, ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from vggt_ros.reconstruction.vggt.sizes import Sizes


class ResidualConvUnit(nn.Module):
    """Two convolutions around a skip that carries relu(x), because the published activation works in place."""

    def __init__(self, features: int) -> None:
        """Make the unit."""
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (S, features, h, w) of the same, which is overwritten."""
        x = x.relu_()
        return self.conv2(self.conv1(x).relu_()).add_(x)


class FeatureFusion(nn.Module):
    """Add a finer level to the coarser ones and enlarge."""

    def __init__(self, features: int, first: bool = False) -> None:
        """Make the block; the `first`, coarsest one has nothing to add to."""
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        if not first:
            self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)

    def forward(self, size: Sequence[int], level: Tensor, coarser: Tensor | None = None) -> Tensor:
        """Return (S, features, *size); `level` is overwritten."""
        x = level if coarser is None else self.resConfUnit1(level).add_(coarser)
        # The published code enlarges first. A 1x1 convolution commutes with that, and here has a quarter of the pixels.
        return enlarge(self.out_conv(self.resConfUnit2(x)), size)


class Scratch(nn.Module):
    """The pyramid between the token maps and the output; the name is the published one."""

    def __init__(self, channels: Sequence[int], features: int, outputs: int | None) -> None:
        """Make the pyramid; without `outputs` it ends in features."""
        super().__init__()
        for level, inputs in enumerate(channels, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(inputs, features, 3, padding=1, bias=False))
            self.add_module(f"refinenet{level}", FeatureFusion(features, first=level == 4))
        self.output_conv1 = nn.Conv2d(features, features if outputs is None else features // 2, 3, padding=1)
        if outputs is not None:
            self.output_conv2 = nn.Sequential(nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(inplace=True),
                                              nn.Conv2d(32, outputs, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return (S, channels, 2 h, 2 w) of four maps from fine (S, c, h, w) to coarse."""
        levels = [getattr(self, f"layer{i}_rn")(x) for i, x in enumerate(maps, start=1)]
        sizes = [[2 * edge for edge in levels[0].shape[2:]], *(level.shape[2:] for level in levels[:3])]
        x = None
        for i in (4, 3, 2, 1):
            x = getattr(self, f"refinenet{i}")(sizes[i - 1], levels[i - 1], x)
        return self.output_conv1(x)


class DptHead(nn.Module):
    """Depth or points with their confidence, or features for tracking."""

    def __init__(self, sizes: Sizes, channels: Sequence[int], features: int, outputs: int | None,
                 shrink: int = 1) -> None:
        """Make the head.

        Args:
            sizes: of the network.
            channels: of the four token maps.
            features: channels of the pyramid.
            outputs: channels of the map, the last one the confidence; None: the map is features, without positions.
            shrink: image size over map size.

        """
        super().__init__()
        a, b, _, d = channels
        self.patch, self.shrink, self.outputs = sizes.patch, shrink, outputs
        self.norm = nn.LayerNorm(2 * sizes.embed_dim)
        self.projects = nn.ModuleList(nn.Conv2d(2 * sizes.embed_dim, out, 1) for out in channels)
        self.resize_layers = nn.ModuleList((
            nn.ConvTranspose2d(a, a, 4, stride=4), nn.ConvTranspose2d(b, b, 2, stride=2), nn.Identity(),
            nn.Conv2d(d, d, 3, stride=2, padding=1)))
        self.scratch = Scratch(channels, features, outputs)

    def forward(self, taps: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Return the raw map (S, channels, H / shrink, W / shrink) of patch tokens (S, n, c) of four layers."""
        rows, columns = grid
        maps = []
        for tokens, project, resize in zip(taps, self.projects, self.resize_layers, strict=True):
            x = project(self.norm(tokens).transpose(1, 2).unflatten(2, grid))
            maps.append(resize(self.add_positions(x, columns / rows)))
        x = enlarge(self.scratch(maps), (rows * self.patch // self.shrink, columns * self.patch // self.shrink))
        return x if self.outputs is None else self.scratch.output_conv2(self.add_positions(x, columns / rows))

    def add_positions(self, x: Tensor, aspect: float) -> Tensor:
        """Return x (S, C, h, w), changed: with a tenth of the plane's position embedding, if this head has one."""
        if self.outputs is None:
            return x
        return x.add_(plane_positions(x.shape[1], x.shape[2], x.shape[3], aspect, x.device, x.dtype))


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return x (S, C, h, w) at `size`, bilinearly, corners on corners."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


@lru_cache(maxsize=64)
def plane_positions(channels: int, height: int, width: int, aspect: float, device: torch.device,
                    dtype: torch.dtype) -> Tensor:
    """Return 0.1 times the sines and cosines (channels, height, width) of the image plane; made once for a size.

    The plane spans its diagonal's length of 2; `aspect` is width over height. First half of the channels for x.
    """
    diagonal = (aspect**2 + 1) ** 0.5
    frequencies = 100.0 ** (-torch.arange(channels // 4, dtype=torch.float64) / (channels // 4))

    def embed(span: float, count: int) -> Tensor:
        edge = span * (count - 1) / count
        angles = frequencies[:, None] * torch.linspace(-edge, edge, count).double()
        return torch.cat((angles.sin(), angles.cos()))

    x = embed(aspect / diagonal, width)[:, None, :].expand(-1, height, -1)
    y = embed(1 / diagonal, height)[:, :, None].expand(-1, -1, width)
    return (0.1 * torch.cat((x, y))).to(device=device, dtype=dtype)
