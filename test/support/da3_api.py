"""The package's own class for users, `depth_anything_3.api.DepthAnything3`, in float32, as a second implementation.

It imports exporters and video encoders, and two functions of torchvision, whose wheel on PyPI does not load beside the
CPU build of torch. What is not used here is left out; of torchvision there are the two functions, where it is missing.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import torch

from vggt_ros.reconstruction.da3 import network  # noqa: F401 (before the package: it silences it)


class _ToTensor:
    """RGB uint8 (h, w, 3) to float32 (3, h, w) in [0, 1]."""

    def __call__(self, image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class _Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def __call__(self, image):
        return (image - self.mean) / self.std


def _stand_in(name, **members):
    module = ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module
    return module


def load_api():
    """Return the module `depth_anything_3.api`."""
    if "depth_anything_3.api" not in sys.modules:
        before = dict(sys.modules)
        _stand_in("depth_anything_3.utils.export", export=None)
        if importlib.util.find_spec("imageio") is None:
            _stand_in("imageio")
        if importlib.util.find_spec("torchvision") is None:
            transforms = _stand_in("torchvision.transforms", ToTensor=_ToTensor, Normalize=_Normalize)
            _stand_in("torchvision", transforms=transforms)
        try:
            importlib.import_module("depth_anything_3.api")
        finally:
            for name in ("imageio", "torchvision", "torchvision.transforms"):
                if name not in before:
                    sys.modules.pop(name, None)
    return sys.modules["depth_anything_3.api"]


def exact_api(name="da3-small"):
    """Return the class for users with one of its networks; in float32, where it computes in float16."""
    api = load_api()

    class Exact(api.DepthAnything3):
        @torch.inference_mode()
        def forward(self, image, extrinsics=None, intrinsics=None, export_feat_layers=None, infer_gs=False,
                    use_ray_pose=False, ref_view_strategy="saddle_balanced"):
            return self.model(image, extrinsics, intrinsics, export_feat_layers, infer_gs, use_ray_pose,
                              ref_view_strategy)

    return Exact(name)
