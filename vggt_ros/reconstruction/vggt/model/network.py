"""The VGGT network: from images to cameras, depth, points and tracks."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from vggt_ros.reconstruction.vggt.model.aggregator import Aggregator
from vggt_ros.reconstruction.vggt.model.blocks import BlockRunner, run_block
from vggt_ros.reconstruction.vggt.model.camera_head import CameraHead
from vggt_ros.reconstruction.vggt.model.dpt_head import DptHead
from vggt_ros.reconstruction.vggt.model.sizes import PUBLISHED, Sizes
from vggt_ros.reconstruction.vggt.model.track_head import TrackHead

OUTPUTS = ("cameras", "depth", "points", "tracks")


class Network(nn.Module):
    """The published network; its state dict has the published names and shapes."""

    def __init__(self, sizes: Sizes = PUBLISHED) -> None:
        """Create the network with placeholder weights."""
        super().__init__()
        self.sizes = sizes
        self.aggregator = Aggregator(sizes)
        self.camera_head = CameraHead(sizes)
        self.point_head = DptHead(sizes, sizes.out_channels, sizes.features, outputs=4)
        self.depth_head = DptHead(sizes, sizes.out_channels, sizes.features, outputs=2)
        self.track_head = TrackHead(sizes)
        self.chunk = 1  # number of frames that the dense heads process at a time
        self.dense_dtype = torch.float32  # type in which the heads of depth and points compute
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor, outputs: Collection[str] = OUTPUTS[:2],
                queries: Tensor | None = None) -> dict[str, Tensor]:
        """Return what `decode` returns, for RGB images (S, 3, H, W) in [0, 1]; H and W are multiples of the patch."""
        return self.decode(self.aggregate(self.aggregator.encode(images), images.shape[2:]), images.shape[2:],
                           outputs, queries)

    def aggregate(self, patches: Tensor, size: Sequence[int], run: BlockRunner = run_block,
                  keep: Collection[int] | None = None) -> dict[int, Tensor]:
        """Return outputs (S, P, 2 dim) of layers of the aggregator.

        Args:
            patches: the tokens of the encoder.
            size: H and W of the images.
            run: runs a block.
            keep: indices of the layers; None for those that the heads read.

        """
        grid = (size[0] // self.sizes.patch, size[1] // self.sizes.patch)
        tables = self.aggregator.rotary_tables(grid, len(patches), patches.device)
        kept = tuple(sorted({*self.sizes.taps, self.sizes.depth - 1})) if keep is None else keep
        return self.aggregator(patches, tables, kept, run)

    def decode(self, layers: dict[int, Tensor], size: Sequence[int], outputs: Collection[str],
               queries: Tensor | None = None) -> dict[str, Tensor]:
        """Return the outputs of the heads, in float32.

        Args:
            layers: as `aggregate` returns them.
            size: H and W of the images.
            outputs: a subset of `OUTPUTS`.
            queries: points of the first frame to track, pixels x y (n, 2).

        Returns:
            `pose_enc` (S, 9); `depth` and `depth_conf` (S, H, W); `world_points` (S, H, W, 3) and
            `world_points_conf` (S, H, W); `track` (S, n, 2) in pixels, `track_vis` and `track_conf` (S, n) in [0, 1].

        """
        grid = (size[0] // self.sizes.patch, size[1] // self.sizes.patch)
        taps = [layers[tap][:, self.aggregator.special_tokens:] for tap in self.sizes.taps]
        result = {}
        if "cameras" in outputs:
            result["pose_enc"] = self.camera_head(layers[self.sizes.depth - 1][:, 0])
        if "depth" in outputs:
            raw = self.dense_map(self.depth_head, taps, grid)
            result["depth"], result["depth_conf"] = raw[:, 0].exp(), 1 + raw[:, 1].exp()
        if "points" in outputs:
            raw = self.dense_map(self.point_head, taps, grid)
            xyz = raw[:, :3].permute(0, 2, 3, 1)
            result["world_points"], result["world_points_conf"] = xyz.sign() * xyz.abs().expm1(), 1 + raw[:, 3].exp()
        if "tracks" in outputs and queries is not None:
            result["track"], result["track_vis"], result["track_conf"] = \
                self.track_head(taps, grid, queries, chunk=self.chunk)
        return result

    def dense_map(self, head: DptHead, taps: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Return the raw map of a dense head in float32, computed `chunk` frames at a time to bound the memory."""
        parts = [[tap[first:first + self.chunk] for tap in taps] for first in range(0, len(taps[0]), self.chunk)]
        reduced = self.dense_dtype != torch.float32
        with torch.autocast(taps[0].device.type, self.dense_dtype if reduced else torch.bfloat16, enabled=reduced,
                            cache_enabled=False):
            return torch.cat([head(part, grid).float() for part in parts])
