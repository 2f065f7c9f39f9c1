"""Settings of Depth Anything 3; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from vggt_ros.settings import setting


@dataclass(frozen=True)
class Da3Config:
    """Depth Anything 3, a smaller network with weights for commercial use (SMALL, BASE)."""

    weights: str = setting("depth-anything/DA3-BASE", "Hugging Face repository, folder or file (.safetensors) of the "
                           "weights; those of LARGE and GIANT are for non-commercial use.")
    revision: str = setting("", "Branch, tag or commit of the Hugging Face repository; empty: its main branch.")
    width: int = setting(504, "Longer side of its images; both are rounded to multiples of 14. Smaller is faster.",
                         unit="px", low=112, high=1036)
    device: str = setting("auto", "Device it runs on; `auto`: the GPU if there is one.",
                          choices=("auto", "cuda", "cpu"))
    dtype: str = setting("auto", "Type in which the transformer multiplies; `auto`: bfloat16 on a GPU that has it, "
                         "float16 on an older one, float32 on a CPU.",
                         choices=("auto", "float32", "bfloat16", "float16"))
    reference: str = setting("saddle_balanced", "How the image is chosen that the network refers all others to.",
                             choices=("saddle_balanced", "saddle_sim_range", "first", "middle"))
    known_poses: str = setting("off", "`tracked`: the network is given intrinsics and poses, of shared keyframes from "
                               "the window before, of new ones from tracking; it takes all or none.",
                               choices=("off", "tracked"))
    edge_jump: float = setting(0.0, "Depth is dropped where its logarithm jumps by more from pixel to pixel; 0: never.",
                               low=0.0, high=10.0)
    min_raw_confidence: float = setting(1.0, "Depth of lower raw confidence is dropped; 1: none.", low=1.0, high=1000.0)
    far: float = setting(0.0, "Depth beyond this multiple of the window's median is dropped; 0: none.",
                         unit="median depths", low=0.0, high=1000.0)
