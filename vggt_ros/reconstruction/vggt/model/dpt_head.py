"""The dense head (DPT): a dense map at image resolution from the tokens of four layers.

Ranftl et al., Vision Transformers for Dense Prediction, ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the convention of torch)

from vggt_ros.reconstruction.vggt.model.sizes import Sizes


class ResidualConvUnit(nn.Module):
    """Two convolutions with a skip connection of relu(x), not x, because the published activation works in place."""

    def __init__(self, features: int) -> None:
        """Create the unit."""
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (S, features, h, w) for x of the same shape, which is overwritten."""
        x = x.relu_()
        return self.conv2(self.conv1(x).relu_()).add_(x)


class FeatureFusion(nn.Module):
    """Adds a finer pyramid level to the coarser ones and upsamples the sum."""

    def __init__(self, features: int, first: bool = False) -> None:
        """Create the block; the `first`, coarsest one has no coarser level to add."""
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        if not first:
            self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)

    def forward(self, size: Sequence[int], level: Tensor, coarser: Tensor | None = None) -> Tensor:
        """Return (S, features, *size); `level` is overwritten."""
        x = level if coarser is None else self.resConfUnit1(level).add_(coarser)
        # The published code upsamples first. A 1x1 convolution commutes with that, and has a quarter of the pixels.
        return upsample(self.out_conv(self.resConfUnit2(x)), size)


class Scratch(nn.Module):
    """The pyramid between the token maps and the output; the name is the published one."""

    def __init__(self, channels: Sequence[int], features: int, outputs: int | None) -> None:
        """Create the pyramid; without `outputs` it returns features."""
        super().__init__()
        for level, inputs in enumerate(channels, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(inputs, features, 3, padding=1, bias=False))
            self.add_module(f"refinenet{level}", FeatureFusion(features, first=level == 4))
        self.output_conv1 = nn.Conv2d(features, features if outputs is None else features // 2, 3, padding=1)
        if outputs is not None:
            self.output_conv2 = nn.Sequential(nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(inplace=True),
                                              nn.Conv2d(32, outputs, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return (S, channels, 2 h, 2 w) for four maps, from fine (S, c, h, w) to coarse."""
        levels = [getattr(self, f"layer{i}_rn")(x) for i, x in enumerate(maps, start=1)]
        sizes = [[2 * edge for edge in levels[0].shape[2:]], *(level.shape[2:] for level in levels[:3])]
        x = None
        for i in (4, 3, 2, 1):
            x = getattr(self, f"refinenet{i}")(sizes[i - 1], levels[i - 1], x)
        return self.output_conv1(x)


class DptHead(nn.Module):
    """Predicts depth or points with their confidence, or features for tracking."""

    def __init__(self, sizes: Sizes, channels: Sequence[int], features: int, outputs: int | None,
                 downscale: int = 1) -> None:
        """Create the head.

        Args:
            sizes: sizes of the network.
            channels: channels of the four token maps.
            features: channels of the pyramid.
            outputs: channels of the map, the last one is the confidence; None for features without position embedding.
            downscale: ratio of image size to map size.

        """
        super().__init__()
        a, b, _, d = channels
        self.patch, self.downscale, self.outputs = sizes.patch, downscale, outputs
        self.norm = nn.LayerNorm(2 * sizes.embed_dim)
        self.projects = nn.ModuleList(nn.Conv2d(2 * sizes.embed_dim, out, 1) for out in channels)
        self.resize_layers = nn.ModuleList((
            nn.ConvTranspose2d(a, a, 4, stride=4), nn.ConvTranspose2d(b, b, 2, stride=2), nn.Identity(),
            nn.Conv2d(d, d, 3, stride=2, padding=1)))
        self.scratch = Scratch(channels, features, outputs)

    def forward(self, taps: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Return the raw map (S, channels, H / downscale, W / downscale) for patch tokens (S, n, c) of four layers."""
        rows, columns = grid
        maps = []
        for tokens, project, resize in zip(taps, self.projects, self.resize_layers, strict=True):
            x = project(self.norm(tokens).transpose(1, 2).unflatten(2, grid))
            maps.append(resize(self.add_positions(x, columns / rows)))
        x = upsample(self.scratch(maps), (rows * self.patch // self.downscale, columns * self.patch // self.downscale))
        return x if self.outputs is None else self.scratch.output_conv2(self.add_positions(x, columns / rows))

    def add_positions(self, x: Tensor, aspect: float) -> Tensor:
        """Add 0.1 times the position embedding of the image plane to x (S, C, h, w) in place, if this head uses one."""
        if self.outputs is None:
            return x
        # In the layout of x, which convolutions choose: an addition across layouts would be slow on a GPU.
        last = x.is_contiguous(memory_format=torch.channels_last)
        return x.add_(plane_positions(x.shape[1], x.shape[2], x.shape[3], aspect, x.device, x.dtype, last))


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return x (S, C, h, w) resized to `size`, bilinearly with aligned corners."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


@lru_cache(maxsize=64)
def plane_positions(channels: int, height: int, width: int, aspect: float, device: torch.device,
                    dtype: torch.dtype, channels_last: bool = False) -> Tensor:
    """Return 0.1 times the sinusoidal position embedding (channels, height, width) of the image plane; cached by size.

    Coordinates are scaled such that the diagonal of the plane is 2; `aspect` is width over height. The first half of
    the channels encodes x. With `channels_last` the channels of a pixel are next to each other in memory.
    """
    diagonal = (aspect**2 + 1) ** 0.5
    frequencies = 100.0 ** (-torch.arange(channels // 4, dtype=torch.float64) / (channels // 4))

    def embed(span: float, count: int) -> Tensor:
        edge = span * (count - 1) / count
        angles = frequencies[:, None] * torch.linspace(-edge, edge, count).double()
        return torch.cat((angles.sin(), angles.cos()))

    x = embed(aspect / diagonal, width)[:, None, :].expand(-1, height, -1)
    y = embed(1 / diagonal, height)[:, :, None].expand(-1, -1, width)
    table = 0.1 * torch.cat((x, y))
    if channels_last:
        table = table.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return table.to(device=device, dtype=dtype)
