"""Sizes of the network: the published ones, unless a `config.json` in the folder of the weights defines others."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATCH = 14
"""Edge of a patch, pixels: that of DINOv2, and the image sizes of this package are multiples of it."""
_LARGEST = {"embed_dim": 8192, "heads": 128, "depth": 128, "encoder_depth": 128, "encoder_grid": 256, "registers": 64,
            "features": 4096, "track_features": 4096, "track_hidden": 8192, "track_depth": 64, "camera_depth": 64,
            "camera_heads": 256, "out_channels": 8192, "track_channels": 8192}
"""Largest value of each size: several times that of VGGT-1B. Beyond it a file is not meant, or not right."""


@dataclass(frozen=True)
class Sizes:
    """Widths and depths of VGGT; the defaults are those of the published VGGT-1B.

    Attributes:
        embed_dim, heads: width and attention heads of the encoder and of the aggregator's blocks.
        depth: pairs of frame and global blocks.
        encoder_depth: blocks of the DINOv2 encoder.
        encoder_grid: patches along a side of the square image that the position embedding was trained for.
        patch: edge of a patch, pixels.
        registers: register tokens per frame, in the encoder and in the aggregator.
        taps: indices of the layers that the dense heads read; the camera head reads the last layer.
        features, out_channels: widths inside the dense heads.
        track_features, track_channels, track_hidden, track_depth: the same for the tracking head, and its transformer.
        camera_depth, camera_heads: trunk of the camera head.

    """

    embed_dim: int = 1024
    heads: int = 16
    depth: int = 24
    encoder_depth: int = 24
    encoder_grid: int = 37
    patch: int = PATCH
    registers: int = 4
    taps: tuple[int, ...] = (4, 11, 17, 23)
    features: int = 256
    out_channels: tuple[int, ...] = (256, 512, 1024, 1024)
    track_features: int = 128
    track_channels: tuple[int, ...] = (256, 512, 1024, 1024)
    track_hidden: int = 384
    track_depth: int = 6
    camera_depth: int = 4
    camera_heads: int = 16

    def __post_init__(self) -> None:
        """Check that the sizes are possible and consistent; raises ValueError."""
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            for one in value if name.endswith("channels") and isinstance(value, tuple) else (value,):
                if type(one) is not int or not 1 <= one <= largest:
                    raise ValueError(f"{name} {one!r} is not an integer from 1 to {largest}")
        if self.patch != PATCH:
            raise ValueError(f"patch {self.patch!r}: only patches of {PATCH} pixels are supported")
        if self.embed_dim % self.heads or self.embed_dim // self.heads % 4 or 2 * self.embed_dim % self.camera_heads:
            raise ValueError(f"embed_dim {self.embed_dim} does not divide into {self.heads} and "
                             f"{self.camera_heads} heads of multiples of 4 channels")
        fours = (self.taps, self.out_channels, self.track_channels)
        if any(not isinstance(values, tuple) or len(values) != 4 for values in fours) \
                or any(type(tap) is not int or not 0 <= tap < self.depth for tap in self.taps):
            raise ValueError(f"taps {self.taps}, out_channels {self.out_channels} and track_channels "
                             f"{self.track_channels}: must have four values each, taps from 0 below {self.depth}")

    @staticmethod
    def load(path: Path) -> Sizes:
        """Return the sizes in a JSON file; unknown keys are ignored, missing ones have the published values.

        Raises:
            ValueError: the file is not a JSON object, or its sizes are impossible or inconsistent.
            OSError: the file cannot be read.

        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except RecursionError as error:
            raise ValueError(f"{path}: nested too deeply") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}: not a JSON object")
        names = {item.name for item in dataclasses.fields(Sizes)}
        known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                                 for name, value in values.items() if name in names}
        return Sizes(**known)

    def save(self, path: Path) -> None:
        """Write the sizes as JSON, as `load` reads them."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


PUBLISHED = Sizes()
SMALL = Sizes(embed_dim=384, heads=6, depth=4, encoder_depth=12, taps=(0, 1, 2, 3), features=64,
              out_channels=(48, 96, 192, 384))
"""A small network for tests: its tensors have published names, but are fewer and smaller."""
