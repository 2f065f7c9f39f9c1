"""The network of the package depth-anything-3, built without the parts that a window does not need.

Its class for users (`depth_anything_3.api`) imports exporters, viewers and video encoders. The network itself needs
torch, addict, einops and omegaconf, the last two of which only describe shapes and configurations.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from vggt_ros.reconstruction.da3.sizes import PATCH, Sizes

os.environ.setdefault("DA3_LOG_LEVEL", "WARN")  # it prints a line for each window otherwise
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # omegaconf 2.4: a function that the package calls is deprecated
    from depth_anything_3.model.cam_dec import CameraDec
    from depth_anything_3.model.cam_enc import CameraEnc
    from depth_anything_3.model.da3 import DepthAnything3Net
    from depth_anything_3.model.dinov2.vision_transformer import DinoVisionTransformer
    from depth_anything_3.model.dualdpt import DualDPT

__all__ = ["DepthAnything3Net", "build", "drop_unused", "normalized", "predict", "unused_prefixes"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colors that it was trained with (ImageNet), red, green, blue in [0, 1]."""
RAY_PARTS = ("refinenet1_aux", "refinenet2_aux", "refinenet3_aux", "refinenet4_aux", "output_conv1_aux",
             "output_conv2_aux")
"""Members of `head.scratch` that predict a ray for each pixel, which nothing here uses."""


class _Backbone(nn.Module):
    """The transformer; the published names of its tensors begin with `pretrained`."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self._layers = list(sizes.out_layers)
        # The uniform drop path has the same rate, 0, without a computation that placeholders on `meta` cannot do.
        self.pretrained = DinoVisionTransformer(
            img_size=518, patch_size=PATCH, embed_dim=sizes.embed_dim, depth=sizes.depth, num_heads=sizes.heads,
            mlp_ratio=4, ffn_layer="swiglufused" if sizes.gated else "mlp", alt_start=sizes.joint_from,
            qknorm_start=sizes.joint_from, rope_start=sizes.joint_from, cat_token=True, drop_path_uniform=True)

    def forward(self, images: Tensor, **options: Any) -> Any:
        return self.pretrained.get_intermediate_layers(images, self._layers, **options)


class _Head(DualDPT):
    """The depth head, for so many images at a time; more need more memory, and are faster on a GPU.

    Attributes:
        chunk: number of images.

    """

    chunk = 8

    def forward(self, feats: Any, H: int, W: int, patch_start_idx: int,  # noqa: N803 (as in the package)
                chunk_size: int | None = None) -> Any:
        return super().forward(feats, H, W, patch_start_idx, chunk_size=self.chunk)


class _Nothing(nn.Module):
    """Stands in for a part whose output is not used: a single pixel."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x[..., :1, :1]


def build(sizes: Sizes) -> DepthAnything3Net:
    """Return the network with placeholder weights; the names of its tensors are the published ones.

    Published files put `model.` before them.
    """
    wide = 2 * sizes.embed_dim
    network = DepthAnything3Net(
        net=_Backbone(sizes),
        head=_Head(dim_in=wide, output_dim=2, features=sizes.features, out_channels=list(sizes.out_channels)),
        cam_dec=CameraDec(dim_in=wide), cam_enc=CameraEnc(dim_out=sizes.embed_dim))
    return network.eval().requires_grad_(False)


def drop_unused(network: DepthAnything3Net, known_poses: bool) -> None:
    """Remove the rays, and, if no poses are given to the network, their encoder."""
    scratch = network.head.scratch
    for name in RAY_PARTS:
        part = getattr(scratch, name)
        setattr(scratch, name, nn.ModuleList(_Nothing() for _ in part) if isinstance(part, nn.ModuleList)
                else _Nothing())
    if not known_poses:
        network.cam_enc = None


def unused_prefixes(known_poses: bool) -> tuple[str, ...]:
    """Return the prefixes of the tensors that `drop_unused` removes."""
    return (*(f"head.scratch.{name}." for name in RAY_PARTS), *(() if known_poses else ("cam_enc.",)))


def normalized(images: Tensor) -> Tensor:
    """Return RGB images (S, 3, H, W) in [0, 1] as the network wants them."""
    mean, std = (torch.tensor(one, device=images.device)[:, None, None] for one in (MEAN, STD))
    return (images - mean) / std


def predict(network: DepthAnything3Net, images: Tensor, reference: str = "saddle_balanced",
            camera_world: Tensor | None = None, intrinsics: Tensor | None = None) -> dict[str, Tensor]:
    """Return what the network predicts for RGB images (S, 3, H, W) in [0, 1]; H and W are multiples of `PATCH`.

    Args:
        network: on the device of the images.
        images: of one window.
        reference: how the image is chosen that all others are referred to; not used where poses are given.
        camera_world: known poses (S, 4, 4), in the frame of the first camera, in the unit of the network; or None.
        intrinsics: known intrinsics (S, 3, 3) in pixels, with poses.

    Returns:
        `camera_world` (S, 3, 4), poses of the world in the cameras; `intrinsics` (S, 3, 3), pixels, with the principal
        point at (W / 2, H / 2); `depth` (S, H, W) along the optical axis; `depth_conf` (S, H, W), at least 1.

    """
    given = (None, None) if camera_world is None or intrinsics is None else (camera_world[None], intrinsics[None])
    result = network(normalized(images)[None], *given, export_feat_layers=[], ref_view_strategy=reference)
    return {"camera_world": result["extrinsics"][0], "intrinsics": result["intrinsics"][0],
            "depth": result["depth"][0], "depth_conf": result["depth_conf"][0]}
