"""`Da3`: the reconstructor that runs Depth Anything 3, from the images of a window to its geometry."""

from __future__ import annotations

import gc
import logging
import resource
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.reconstruction.da3 import weights
from vggt_ros.reconstruction.da3.decoding import Output, decode
from vggt_ros.reconstruction.da3.image_size import network_size
from vggt_ros.reconstruction.da3.known_poses import PosesUnknown, in_network_units, known_poses
from vggt_ros.reconstruction.da3.memory import activation_bytes
from vggt_ros.reconstruction.da3.network import DepthAnything3Net, predict
from vggt_ros.reconstruction.da3.settings import Da3Config
from vggt_ros.reconstruction.da3.sizes import PATCH, Sizes
from vggt_ros.reconstruction.vggt.checkpoints import weight_files
from vggt_ros.reconstruction.vggt.device_errors import (
    DeviceUnsuitable,
    device_problem,
    is_out_of_memory,
    lost_context,
)
from vggt_ros.reconstruction.vggt.output.filtering import filter_points
from vggt_ros.reconstruction.vggt.runtime import memory
from vggt_ros.reconstruction.vggt.runtime.availability import unsupported_reason
from vggt_ros.reconstruction.vggt.runtime.images import to_host, to_tensor
from vggt_ros.reconstruction.vggt.runtime.inference import choose_dtypes
from vggt_ros.windows.keyframe import Window

log = logging.getLogger(__name__)


class Da3:
    """Runs the network on windows; windows that do not fit into memory are split by who calls (`splitting`).

    Attributes:
        name: "da3".
        device: the device that it runs on.
        compute: type in which the transformer multiplies; weights and heads are in float32.
        on_cpu: whether it computes on the CPU.
        network, kind, sizes: the network, its name and its sizes, after `load` or `set_network`.

    """

    name = "da3"
    network: DepthAnything3Net
    sizes: Sizes
    kind: str

    def __init__(self, config: Config) -> None:
        """Choose the device; `load` loads the weights.

        Raises:
            DeviceUnsuitable: `da3.device` is `cuda` and there is no GPU, or torch does not support it.

        """
        settings = self.settings = config.of(Da3Config)
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise DeviceUnsuitable("da3.device: cuda is configured, but torch finds no GPU; set auto or cpu")
        self.device = torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")
        if reason := unsupported_reason(self.device):
            raise DeviceUnsuitable(f"da3: {reason}")
        self.on_cpu = self.device.type == "cpu"
        with lost_context():
            self.compute = choose_dtypes(settings.dtype, self.device)[1]
        self._before: WindowGeometry | None = None
        self._windows, self._conditioned, self._not_given = 0, 0, ""

    @classmethod
    def unavailable_reason(cls, config: Config, at_once: bool) -> str:
        """Return the reason why the network cannot run, empty if it can.

        `at_once` requires a GPU and weights on disk; without it, a CPU and a download are acceptable.
        """
        settings = config.of(Da3Config)
        if not at_once:
            return ""
        if settings.device != "cpu" and not torch.cuda.is_available():
            return "torch finds no GPU, and da3.device is not cpu"
        try:
            weight_files.find(settings.weights, False, None, None, settings.revision, "da3", weights.FILE_NAMES)
        except weight_files.WeightsError as error:
            return str(error)
        return ""

    @property
    def status_values(self) -> dict[str, str]:
        """Model, device and type, and whether poses are given to the network, for the status message."""
        device = f"CPU, {torch.get_num_threads()} threads" if self.on_cpu else torch.cuda.get_device_name(self.device)
        values = {"model": f"{self.settings.weights} ({self.kind}, depth-anything-3 {version('depth-anything-3')})",
                  "device": device, "type": str(self.compute).removeprefix("torch.")}
        if self.settings.known_poses != "off":
            values["known poses"] = f"given in {self._conditioned} of {self._windows} windows" + (
                f"; last not: {self._not_given}" if self._not_given else "")
        return values

    @property
    def carries(self) -> str:
        """Which windows depend on those before; see `OptionalMembers`."""
        return "never" if self.settings.known_poses == "off" else "always"

    @property
    def carried(self) -> tuple[WindowGeometry | None, ...]:
        """What it takes from one window to the next: the geometry whose poses may be given."""
        return () if self.carries == "never" else (self._before,)

    @carried.setter
    def carried(self, values: tuple[WindowGeometry | None, ...]) -> None:
        self._before = values[0] if values else None

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height), multiples of 14, to which images of this camera must be rectified."""
        return network_size(camera, self.settings.width)

    def load(self, progress: Callable[[str], None] = lambda text: None, download: bool = True) -> None:
        """Load the weights; `progress` is called with the state, and what it raises ends the loading.

        Raises:
            WeightsError: they are not on disk and may not be or cannot be downloaded, or do not fit the network.
            DeviceUnsuitable, ReconstructorLost: too little memory, or a GPU that torch cannot use.

        """
        progress("looking for the weights")
        path = weight_files.find(self.settings.weights, download, None, progress, self.settings.revision, "da3",
                                 weights.FILE_NAMES)
        problem = ""
        try:
            with lost_context():
                self.set_network(*weights.load(path, self.device, self.settings.known_poses != "off",
                                               lambda done: progress(f"loading the weights, {100 * done:.0f} %")))
        except (RuntimeError, MemoryError) as error:
            problem = device_problem(error, self.device, "while the weights were loaded", "da3")
            if not problem:
                raise
        if problem:  # not in the handler: an exception references tensors until it is deleted
            self.close()
            raise DeviceUnsuitable(f"da3: {problem}")

    def set_network(self, network: DepthAnything3Net, kind: str, sizes: Sizes) -> None:
        """Use a network that is on the device already."""
        self.network, self.kind, self.sizes = network, kind, sizes
        network.head.chunk = 1 if self.on_cpu else 8
        log.info("da3: %s on %s, %.1f million parameters", kind, self.device,
                 sum(value.numel() for value in network.parameters()) / 1e6)

    def needed_bytes(self, count: int, height: int, width: int) -> float:
        """Return what a window of `count` images takes in addition to the weights."""
        return activation_bytes(self.sizes, count, height, width, self.compute.itemsize, self.network.head.chunk)

    def free_bytes(self) -> float:
        """Return the bytes that windows may take now."""
        return memory.free_bytes(self.device)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Return True if an error means that memory ran out."""
        return is_out_of_memory(error)

    def clear_cache(self) -> None:
        """Free the unused memory that the allocator of the device has reserved."""
        if not self.on_cpu:
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Free the memory on the device; this object cannot be used any more."""
        if hasattr(self, "network"):
            del self.network
        self._before = None
        gc.collect()
        with lost_context():
            self.clear_cache()

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window.

        Raises:
            ReconstructionRefused: fewer than two images, images of a wrong size, or invalid network output.
            ReconstructorLost: the context of the GPU is lost.

        """
        shapes = {keyframe.image.shape for keyframe in window.keyframes}
        height, width = window.keyframes[0].image.shape[:2]
        if len(window.keyframes) < 2 or len(shapes) > 1 or height % PATCH or width % PATCH:
            raise ReconstructionRefused(f"da3 needs two or more images of one size in multiples of {PATCH}, not "
                                        f"{len(window.keyframes)} of {sorted(shapes)}")
        camera_first = self._known(window)
        began = time.perf_counter()
        with lost_context():
            output = self._run(window, camera_first)
        report = {"seconds": time.perf_counter() - began, "peak_memory_mb": self._peak_bytes() / 1e6,
                  "poses_given": float(camera_first is not None)}
        geometry = decode(output, window, report)
        # A window around a loop, of older keyframes, is not what the next window continues.
        if self._before is None or max(window.ids) > max(self._before.keyframe_ids):
            self._before = geometry
        return geometry

    def _known(self, window: Window) -> NDArray[np.float64] | None:
        """Return the poses that the network is given, in its unit; None if it is given none."""
        if self.settings.known_poses == "off":
            return None
        self._windows += 1
        try:
            found = in_network_units(known_poses(window, self._before))
        except PosesUnknown as reason:
            self._not_given = str(reason)
            log.info("da3: window %d is solved without known poses: %s", window.id, reason)
            return None
        self._conditioned += 1
        return found

    @torch.inference_mode()
    def _run(self, window: Window, camera_first: NDArray[np.float64] | None) -> Output:
        """Return what the network predicts; raises the error of torch if memory runs out."""
        if not self.on_cpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        images = to_tensor([keyframe.image for keyframe in window.keyframes], self.device)
        known: list[torch.Tensor] = []
        if camera_first is not None:
            matrices = (camera_first, np.array([keyframe.intrinsics for keyframe in window.keyframes]))
            known = [torch.from_numpy(one).to(self.device, torch.float32) for one in matrices]
        reduced = self.compute != torch.float32
        with torch.autocast(self.device.type, self.compute if reduced else torch.bfloat16, enabled=reduced):
            result = predict(self.network, images, self.settings.reference, *known)
        depth, ranks = filter_points(result["depth"].float(), result["depth_conf"].float(), self.settings)
        return Output(*to_host(result["camera_world"].float(), result["intrinsics"].float(), depth, ranks))

    def _peak_bytes(self) -> float:
        """Return the most memory so far: on a GPU of this window, on a CPU of this process."""
        return torch.cuda.max_memory_allocated(self.device) if not self.on_cpu else \
            1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
