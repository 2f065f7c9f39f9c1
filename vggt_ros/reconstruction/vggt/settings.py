"""Settings of the GPU reconstructor; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from vggt_ros.settings import setting

CONVENTIONS = ("camera_from_world", "world_from_camera")
"""What the poses of a network of this architecture may be."""


@dataclass(frozen=True)
class VggtConfig:
    """VGGT, the network that reconstructs a window on a GPU."""

    weights: str = setting("facebook/VGGT-1B", "Hugging Face repository, folder or file (.safetensors, .pt) of the "
                           "weights; note their license.")
    revision: str = setting("", "Branch, tag or commit of the Hugging Face repository; empty: its main branch.")
    pose_convention: str = setting("camera_from_world", "What the poses of the camera head are; those of VGGT-1B are "
                                   "`camera_from_world`. Networks of the same architecture may have others.",
                                   choices=CONVENTIONS)
    width: int = setting(518, "Width of its images, rounded to a multiple of 14; smaller needs less memory.",
                         unit="px", low=112, high=1036)
    device: str = setting("auto", "Device it runs on; `auto`: the GPU if there is one.",
                          choices=("auto", "cuda", "cpu"))
    dtype: str = setting("auto", "Type of the matrices; `auto`: bfloat16 on a GPU that has it, float16 on an older "
                         "one, float32 on a CPU.", choices=("auto", "float32", "bfloat16", "float16"))
    outputs: str = setting("depth", "What is computed besides the camera poses.",
                           choices=("depth", "depth,points", "depth,tracks", "depth,points,tracks"))
    reuse_tokens: bool = setting(True, "Keep the encoder's tokens of keyframes that the next window shares.")
    compile: str = setting("auto", "Compile the blocks of the network (torch.compile) for the camera's full windows; "
                           "`auto`: on a GPU, if there is a compiler. If it fails, the log says why.",
                           choices=("auto", "true", "false"))
    dense_dtype: str = setting("float32", "Type in which the heads for depth and points compute; float16 was never "
                               "measured.", choices=("float32", "float16"))
    memory: float = setting(0.0, "Most memory that it may use; 0: no limit. Windows that need more are split.",
                            unit="GB", low=0.0, high=1000.0)
    edge_jump: float = setting(0.0, "Depth is dropped where its logarithm jumps by more from pixel to pixel; 0: never.",
                               low=0.0, high=10.0)
    min_raw_confidence: float = setting(1.0, "Depth of lower raw confidence is dropped, as in the sky; 1: none.",
                                        low=1.0, high=1000.0)
    far: float = setting(0.0, "Depth beyond this multiple of the window's median is dropped; 0: none.",
                         unit="median depths", low=0.0, high=1000.0)
