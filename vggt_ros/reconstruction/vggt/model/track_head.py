"""The tracking head: tracks points of the first frame through all others (after Karaev et al., CoTracker, 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the convention of torch)

from vggt_ros.reconstruction.vggt.model.blocks import Linear, Mlp
from vggt_ros.reconstruction.vggt.model.dpt_head import DptHead
from vggt_ros.reconstruction.vggt.model.sizes import Sizes

STRIDE = 2  # image pixels per pixel of the feature map
LEVELS = 7
RADIUS = 4
MAX_MOTION = 518.0
VIRTUAL_TRACKS = 64
MIN_IMAGE = STRIDE * 2 ** (LEVELS - 1)  # pixels: the coarsest map has at least one
HEADS = 8
CORRELATED = 1 << 16  # samples of the feature maps that are in memory at a time; 32 MB with 128 channels


class CrossBlock(nn.Module):
    """Cross-attention to a context; the residual is added to the *normalized* tokens."""

    def __init__(self, dim: int) -> None:
        """Create the block."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.cross_attn = nn.MultiheadAttention(dim, HEADS, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Return (B, n, dim) for x (B, n, dim) and context (B, m, dim)."""
        x, context = self.norm1(x), self.norm_context(context)
        x = x + self.cross_attn(x, context, context, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class SelfBlock(nn.Module):
    """Self-attention; the residual is added to the *normalized* tokens."""

    def __init__(self, dim: int) -> None:
        """Create the block."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, HEADS, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, n, dim) for x of the same shape."""
        x = self.norm1(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class UpdateTransformer(nn.Module):
    """Predicts the updates of all tracks: attention along each track, then across tracks through virtual tracks."""

    def __init__(self, inputs: int, hidden: int, depth: int, outputs: int) -> None:
        """Create `depth` blocks along time, and as many triples of blocks across tracks."""
        super().__init__()
        self.virual_tracks = nn.Parameter(torch.zeros(1, VIRTUAL_TRACKS, 1, hidden))  # spelled as published
        self.input_norm = nn.LayerNorm(inputs)
        self.input_transform = Linear(inputs, hidden)
        self.output_norm = nn.LayerNorm(hidden)
        self.flow_head = Linear(hidden, outputs)
        self.time_blocks = nn.ModuleList(SelfBlock(hidden) for _ in range(depth))
        self.space_virtual_blocks = nn.ModuleList(SelfBlock(hidden) for _ in range(depth))
        self.space_point2virtual_blocks = nn.ModuleList(CrossBlock(hidden) for _ in range(depth))
        self.space_virtual2point_blocks = nn.ModuleList(CrossBlock(hidden) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, S, outputs) for x (n, S, inputs): n tracks through S frames."""
        count, frames, _ = x.shape
        start = self.input_transform(self.input_norm(x))
        tokens = torch.cat((start, self.virual_tracks[0].expand(-1, frames, -1)))
        for layer, along_time in enumerate(self.time_blocks):
            points, virtual = along_time(tokens).transpose(0, 1).split((count, VIRTUAL_TRACKS), dim=1)
            virtual = self.space_virtual2point_blocks[layer](virtual, points)
            virtual = self.space_virtual_blocks[layer](virtual)
            points = self.space_point2virtual_blocks[layer](points, virtual)
            tokens = torch.cat((points, virtual), dim=1).transpose(0, 1)
        return self.flow_head(self.output_norm(tokens[:count] + start))


class Tracker(nn.Module):
    """Refines tracks in iterations, by how well the features around them correlate with the track's own."""

    def __init__(self, sizes: Sizes) -> None:
        """Create the tracker."""
        super().__init__()
        self.dim, hidden = sizes.track_features, sizes.track_hidden
        inputs = 3 * self.dim + 4  # motion embedding, motion twice, correlation, feature
        self.query_ref_token = nn.Parameter(torch.zeros(1, 2, inputs))
        self.corr_mlp = Mlp(LEVELS * (2 * RADIUS + 1) ** 2, hidden, self.dim)
        self.updateformer = UpdateTransformer(inputs, hidden, sizes.track_depth, self.dim + 2)
        self.fmap_norm = nn.LayerNorm(self.dim)
        self.ffeat_norm = nn.GroupNorm(1, self.dim)
        self.ffeat_updater = nn.Sequential(Linear(self.dim, self.dim), nn.GELU())
        self.vis_predictor = nn.Sequential(Linear(self.dim, 1))
        self.conf_predictor = nn.Sequential(Linear(self.dim, 1))

    def normalize(self, maps: Tensor) -> Tensor:
        """Return feature maps (S, c, h, w) with the channels of each pixel normalized."""
        return self.fmap_norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(self, maps: Tensor, queries: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return tracks (S, n, 2) in pixels, visibility and confidence (S, n), from normalized maps (S, c, h, w)."""
        frames, _, height, width = maps.shape
        pyramid = [maps]
        for _ in range(LEVELS - 1):
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        start = queries / STRIDE
        points = start.expand(frames, -1, -1)
        features = sample(maps[:1], start[None], "border").expand(frames, -1, -1)
        positions = sample(plane_table(self.query_ref_token.shape[-1], height, width, maps.device)[None], start[None],
                        "border")
        frame_embeddings = torch.cat((self.query_ref_token[:, :1],
                                      self.query_ref_token[:, 1:].expand(-1, frames - 1, -1)), dim=1)
        for _ in range(iterations):
            motion = points - points[:1]
            x = torch.cat((embed_motion(motion, self.dim // 2), motion / MAX_MOTION, motion / MAX_MOTION,
                           self.corr_mlp(correlate(pyramid, features, points)), features), dim=-1)
            step = self.updateformer((x + positions).transpose(0, 1) + frame_embeddings).transpose(0, 1)
            feature_step = self.ffeat_norm(step[..., 2:].reshape(-1, self.dim)).view_as(features)
            features = features + self.ffeat_updater(feature_step)
            points = torch.cat((start[None], (points + step[..., :2])[1:]))  # the query itself is fixed
        visibility, confidence = (head(features)[..., 0].sigmoid() for head in (self.vis_predictor,
                                                                                self.conf_predictor))
        return points * STRIDE, visibility, confidence


class TrackHead(nn.Module):
    """Extracts features at half size and runs the tracker on them."""

    def __init__(self, sizes: Sizes) -> None:
        """Create the head."""
        super().__init__()
        self.feature_extractor = DptHead(sizes, sizes.track_channels, sizes.track_features, outputs=None, downscale=2)
        self.tracker = Tracker(sizes)

    def features(self, taps: Sequence[Tensor], grid: tuple[int, int], chunk: int) -> Tensor:
        """Return normalized feature maps (S, c, H / 2, W / 2), computed `chunk` frames at a time."""
        parts = [[tap[first:first + chunk] for tap in taps] for first in range(0, len(taps[0]), chunk)]
        rows, columns = grid
        patch = self.feature_extractor.patch // STRIDE
        maps = taps[0].new_empty(len(taps[0]), rows * patch, columns * patch, self.tracker.dim)  # channels last
        for number, part in enumerate(parts):
            maps[number * chunk:(number + 1) * chunk] = \
                self.tracker.normalize(self.feature_extractor(part, grid)).permute(0, 2, 3, 1)
        return maps.permute(0, 3, 1, 2)

    def forward(self, taps: Sequence[Tensor], grid: tuple[int, int], queries: Tensor, iterations: int = 4,
                chunk: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Return tracks (S, n, 2) in pixels, visibility and confidence (S, n), of queries (n, 2) in the first frame."""
        return self.tracker(self.features(taps, grid, chunk), queries, iterations)


def sample(maps: Tensor, points: Tensor, padding: str) -> Tensor:
    """Return maps (B, c, h, w) sampled bilinearly at points (B, n, 2), pixels x y, as (B, n, c)."""
    size = points.new_tensor((maps.shape[3], maps.shape[2]))
    grid = 2 * points / (size - 1).clamp(min=1) - 1
    return F.grid_sample(maps, grid[:, None], padding_mode=padding, align_corners=True)[:, :, 0].transpose(1, 2)


def correlate(pyramid: Sequence[Tensor], features: Tensor, points: Tensor) -> Tensor:
    """Return the correlation of features (S, n, c) with the maps around points (S, n, 2): (S, n, levels * offsets).

    The published code correlates with whole maps and samples the result. Sampling is linear, so the maps can be sampled
    first, at the few points that are needed. `CORRELATED` samples are in memory at a time.
    """
    frames, count, dim = features.shape
    steps = torch.arange(-RADIUS, RADIUS + 1, device=points.device, dtype=points.dtype)
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).flatten(0, 1)  # x in the outer loop
    result = points.new_empty(frames, count, len(pyramid), len(offsets))
    chunk = max(1, CORRELATED // (frames * len(offsets)))
    for level, maps in enumerate(pyramid):
        for first in range(0, count, chunk):
            part = slice(first, first + chunk)
            around = ((points[:, part] / 2**level)[:, :, None] + offsets).flatten(1, 2)
            samples = sample(maps, around, "zeros").unflatten(1, (-1, len(offsets)))
            result[:, part, level] = torch.einsum("snoc,snc->sno", samples, features[:, part]) / dim**0.5
    return result.flatten(2)


def embed_motion(motion: Tensor, channels: int) -> Tensor:
    """Return interleaved sines and cosines (S, n, 2 channels) of motions (S, n, 2), those of x first."""
    frequencies = torch.arange(0, channels, 2, device=motion.device, dtype=motion.dtype) * (1000.0 / channels)
    angles = motion[..., None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-3)


@lru_cache(maxsize=4)
def plane_table(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return the sinusoidal embedding (channels, height, width) of pixel positions, x first (Vaswani et al., 2017)."""
    frequencies = 10000.0 ** (-torch.arange(channels // 4, dtype=torch.float64) / (channels // 4))

    def embed(count: int) -> Tensor:
        angles = frequencies[:, None] * torch.arange(count, dtype=torch.float64)
        return torch.cat((angles.sin(), angles.cos()))

    x = embed(width)[:, None, :].expand(-1, height, -1)
    y = embed(height)[:, :, None].expand(-1, -1, width)
    return torch.cat((x, y)).float().to(device)
