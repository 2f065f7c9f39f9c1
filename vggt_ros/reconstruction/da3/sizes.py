"""Sizes of the network: the published ones, recognized by the shapes of their tensors, or those in a `config.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATCH = 14
"""Edge of a patch, pixels."""


@dataclass(frozen=True)
class Sizes:
    """Widths and depths of the network.

    Attributes:
        embed_dim, heads, depth: width, attention heads and blocks of the transformer.
        joint_from: first block in which images exchange information; from there on every second block is over all.
        out_layers: the four blocks that the depth head reads; the camera head reads the last one.
        features, out_channels: widths inside the depth head.
        gated: whether the blocks have gated linear units, as those of GIANT.

    """

    embed_dim: int
    heads: int
    depth: int
    joint_from: int
    out_layers: tuple[int, ...]
    features: int
    out_channels: tuple[int, ...]
    gated: bool = False

    def __post_init__(self) -> None:
        """Check that the sizes are possible and consistent; raises ValueError."""
        for name in ("embed_dim", "heads", "depth", "joint_from", "features"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 8192:
                raise ValueError(f"{name} {value!r} is not an integer from 1 to 8192")
        if self.embed_dim % self.heads or self.embed_dim // self.heads % 4 or self.embed_dim % 16:
            raise ValueError(f"embed_dim {self.embed_dim} does not divide into {self.heads} heads of multiples of 4 "
                             "channels, and 16 of the camera encoder")
        if len(self.out_layers) != 4 or any(type(one) is not int or not 0 <= one < self.depth
                                            for one in self.out_layers):
            raise ValueError(f"out_layers {self.out_layers}: four blocks from 0 below {self.depth} are needed")
        if len(self.out_channels) != 4 or any(type(one) is not int or not 1 <= one <= 8192
                                              for one in self.out_channels):
            raise ValueError(f"out_channels {self.out_channels}: four widths are needed")

    @staticmethod
    def load(path: Path) -> Sizes | None:
        """Return the sizes under the key `sizes` of a JSON file, None if it has none; unknown keys are ignored.

        Raises:
            ValueError: the file is not a JSON object, or its sizes are missing, impossible or inconsistent.
            OSError: the file cannot be read.

        """
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        if "sizes" not in values:
            return None
        names = {item.name for item in dataclasses.fields(Sizes)}
        known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                                 for name, value in dict(values["sizes"]).items() if name in names}
        try:
            return Sizes(**known)
        except TypeError as error:
            raise ValueError(str(error)) from error

    def save(self, path: Path) -> None:
        """Write the sizes as JSON, as `load` reads them."""
        path.write_text(json.dumps({"sizes": dataclasses.asdict(self)}, indent=2) + "\n")


PUBLISHED = {
    "SMALL": Sizes(384, 6, 12, 4, (5, 7, 9, 11), 64, (48, 96, 192, 384)),
    "BASE": Sizes(768, 12, 12, 4, (5, 7, 9, 11), 128, (96, 192, 384, 768)),
    "LARGE": Sizes(1024, 16, 24, 8, (11, 15, 19, 23), 256, (256, 512, 1024, 1024)),
    "GIANT": Sizes(1536, 24, 40, 13, (19, 27, 33, 39), 256, (256, 512, 1024, 1024), gated=True),
}
"""The networks with a camera head."""


def recognized(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the name of the published network with tensors of these shapes, empty if it is none of them."""
    width = shapes.get("backbone.pretrained.cls_token", (0,))[-1]
    depth = sum(name.startswith("backbone.pretrained.blocks.") and name.endswith(".norm1.weight") for name in shapes)
    return next((name for name, sizes in PUBLISHED.items() if (sizes.embed_dim, sizes.depth) == (width, depth)), "")
