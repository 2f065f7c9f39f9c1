"""The part of `check` that needs torch: GPU, kernels, parity, weights, memory and speed of VGGT."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from vggt_ros.benchmarks.check.machine import GREEN, RED, YELLOW, Finding
from vggt_ros.benchmarks.gpu.vggt_measure import quick_network
from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.vggt.checkpoints import rule, weight_files, weights
from vggt_ros.reconstruction.vggt.comparison.parity import pseudo_random_network, relative_error
from vggt_ros.reconstruction.vggt.device_errors import DeviceUnsuitable, first_line, is_lost
from vggt_ros.reconstruction.vggt.model.image_size import network_size
from vggt_ros.reconstruction.vggt.model.sizes import PUBLISHED, SMALL
from vggt_ros.reconstruction.vggt.reconstructor import Vggt
from vggt_ros.reconstruction.vggt.runtime import memory
from vggt_ros.reconstruction.vggt.runtime.attention_kernel import PLAIN, attention_kernel, plain_attention_warning
from vggt_ros.reconstruction.vggt.runtime.availability import unsupported_reason
from vggt_ros.reconstruction.vggt.runtime.compilation import compiler_problem
from vggt_ros.reconstruction.vggt.runtime.inference import Inference
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.windows.keyframe import Keyframe, Window

PUBLISHED_POSES = np.array([
    [-0.21585847, -0.00313901, 0.0047124, -0.14601973, -0.16670814, 0.16897084, 0.89117706, 0.94435716, 0.92987466],
    [-0.13698606, -0.15635532, -0.34614277, -0.14242204, -0.20896588, -0.08267538, 0.89259344, 1.03588688, 0.60185355]])
"""Pose encodings of the published implementation, float32 on a CPU: small network, seed 0, two images of 126x98."""
PUBLISHED_DEPTH = 1.4828718
"""Mean depth of the same."""
DOCUMENTED = {"H100": 0.11}
"""Seconds of the aggregator for 8 images of 518x336, by a part of the name of the GPU (table of VGGT's paper)."""
_TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 2e-2, torch.float16: 1e-2}
"""Largest relative error of poses and depth; float32 includes TensorFloat-32 in the convolutions of a GPU."""


class VggtCheck:
    """Checks the device that `vggt.device` selects, and the weights of `vggt.weights` if they are on disk.

    Attributes:
        loaded: the reconstructor with its weights; None if they are not there or could not be loaded.

    """

    def __init__(self, config: Config) -> None:
        """Choose the device."""
        # Compiling would take more than a minute.
        self._config = config.replace({"vggt.compile": "false"})
        cuda = config.of(VggtConfig).device != "cpu" and torch.cuda.is_available()
        self._device = torch.device("cuda" if cuda else "cpu")
        self._size = network_size(Camera.assumed(640, 480, 60.0), config.of(VggtConfig).width)
        self.loaded: Vggt | None = None

    @property
    def _frames(self) -> int:
        return self._config.windows.size

    def gpu(self) -> Iterator[Finding]:
        """Look whether torch finds a GPU, supports it, and computes on it."""
        if self._device.type == "cpu":
            yield Finding("GPU", YELLOW, f"torch {torch.__version__} finds no GPU, or vggt.device is cpu",
                          "VGGT needs an NVIDIA GPU: install its driver and a build of torch with CUDA (python3 -c "
                          "'import torch; print(torch.version.cuda)'); else reconstructor: multiview", checked=False)
            return
        properties = torch.cuda.get_device_properties(self._device)
        capability = torch.cuda.get_device_capability(self._device)
        figures: dict[str, object] = {
            "name": torch.cuda.get_device_name(self._device), "capability": list(capability),
            "architectures": torch.cuda.get_arch_list(), "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(), "total_bytes": properties.total_memory,
            "free_bytes": memory.free_bytes(self._device), "integrated": memory.is_integrated(self._device)}
        text = (f"{figures['name']}, compute capability {capability[0]}.{capability[1]}, "
                f"{properties.total_memory / 1e9:.1f} GB, CUDA {figures['cuda']}, cuDNN {figures['cudnn']}")
        if reason := unsupported_reason(self._device):
            yield Finding("GPU", RED, f"{text}; {reason}", "install a build of torch for this GPU", figures)
            return
        try:
            self._compute()
        except RuntimeError as error:
            cure = "restart what uses the GPU, and look at dmesg" if is_lost(error) else \
                "install a build of torch for this GPU and its driver (docs/how-to/install.md)"
            yield Finding("GPU", RED, f"{text}; computing on it failed: {first_line(error)}", cure, figures)
            return
        yield Finding("GPU", GREEN, text, figures=figures)

    def _compute(self) -> None:
        """Multiply, convolve and attend on the device, in its type; raises the error of torch."""
        kind = self._inference().compute
        x = torch.randn(1, 64, 32, 32, device=self._device)
        y = torch.nn.functional.conv2d(x, torch.randn(64, 64, 3, 3, device=self._device))
        q = y.flatten(2).transpose(1, 2).to(kind)[None]
        z = torch.nn.functional.scaled_dot_product_attention(q, q, q) @ q.transpose(-1, -2)
        if not bool(z.isfinite().all()):
            raise RuntimeError("results are not finite")

    def attention(self) -> Iterator[Finding]:
        """Look which kernel computes the attention."""
        kind = self._inference().compute
        kernel = attention_kernel(PUBLISHED, kind, self._device)
        name = str(kind).removeprefix("torch.")
        if kernel == PLAIN:
            warning = plain_attention_warning(PUBLISHED, kind, self._frames, self._size[1], self._size[0])
            yield Finding("attention kernel", RED if self._device.type == "cuda" else YELLOW, warning.split(": ")[0],
                          warning.split(": ", 1)[1], {"kernel": kernel})
        elif kernel.startswith("unknown"):
            yield Finding("attention kernel", YELLOW, kernel, "compare the speed with docs/measurements/gpu.md",
                          {"kernel": kernel})
        else:
            yield Finding("attention kernel", GREEN, f"{kernel}, in {name}", figures={"kernel": kernel})

    def compiler(self) -> Iterator[Finding]:
        """Look whether the blocks of the network can be compiled."""
        if self._device.type == "cpu":
            yield Finding("compiler", GREEN, "blocks are not compiled on a CPU", checked=False)
        elif problem := compiler_problem(self._device):
            yield Finding("compiler", YELLOW, f"blocks are not compiled: {problem}", "install it, or set vggt.compile "
                          "to false")
        else:
            yield Finding("compiler", GREEN, "blocks will be compiled for the camera's images")

    def parity(self) -> Iterator[Finding]:
        """Compare the small network with outputs of the published one, in float32 and in the type of the device."""
        network, size = pseudo_random_network(SMALL, 0), (98, 126)
        images = torch.from_numpy(rule.images(2, *size)).to(self._device)
        parts: list[str] = []
        figures: dict[str, object] = {}
        level = GREEN
        for dtype in dict.fromkeys(("float32", self._config.of(VggtConfig).dtype)):
            inference = Inference(self._config.replace({"vggt.dtype": dtype}).of(VggtConfig), self._device)
            kind = str(inference.compute).removeprefix("torch.")
            if kind in figures:
                continue
            for name, value in network.named_parameters():
                value.data = value.data.to(self._device, weights.storage_dtype(name, tuple(value.shape),
                                                                               inference.storage))
            inference.set_network(network)
            with torch.inference_mode():
                with inference.autocast():
                    layers = network.aggregate(network.aggregator.encode(images), size)
                output = network.decode({layer: x.float() for layer, x in layers.items()}, size, ("cameras", "depth"))
            errors = (relative_error(output["pose_enc"].cpu(), PUBLISHED_POSES),
                      abs(float(output["depth"].mean()) / PUBLISHED_DEPTH - 1))
            figures[kind] = errors
            parts.append(f"{kind}: poses {errors[0]:.0e}, depth {errors[1]:.0e}")
            if not max(errors) <= _TOLERANCE[inference.compute]:
                level = RED
        yield Finding("parity", level, "small network against the published one, relative error in "
                      + "; ".join(parts), "" if level == GREEN else "this device computes something else: try another "
                      "build of torch, vggt.dtype: float32, vggt.device: cpu; please report it", figures)

    def weights(self) -> Iterator[Finding]:
        """Find the weights, compare them with their hash, and load them."""
        settings = self._config.of(VggtConfig)
        try:
            path = weight_files.find(settings.weights, download=False, revision=settings.revision)
        except weight_files.WeightsError as error:
            yield Finding("weights", YELLOW, str(error), "after reading their license: start the node with "
                          "reconstructor: vggt once, which downloads them (5 GB)", checked=False)
            return
        began = time.perf_counter()
        try:
            digest = weight_files.check_hash(path)
            loaded = Vggt(self._config)
            loaded.load(download=False)
        except (weight_files.WeightsError, DeviceUnsuitable) as error:
            yield Finding("weights", RED, str(error), "see the message", {"file": str(path)})
            return
        seconds, self.loaded = time.perf_counter() - began, loaded
        size, known = path.stat().st_size, "hash as on the hub" if digest else "no hash known, all tensors finite"
        yield Finding("weights", GREEN, f"{path}, {size / 1e9:.2f} GB, {known}, loaded in {seconds:.1f} s",
                      figures={"file": str(path), "bytes": size, "sha256": digest, "seconds": seconds})

    def memory(self) -> Iterator[Finding]:
        """Compare the memory of a window with the model, and say how many images fit."""
        inference = self._full_inference()
        width, height = self._size
        sizes = PUBLISHED if inference is None else inference.network.sizes
        mode = self._inference().mode if inference is None else inference.mode
        free = min(memory.available_bytes(self._device, self._config.of(VggtConfig).memory),
                   memory.free_bytes(self._device))
        held = memory.weight_bytes(sizes, self._inference().storage, mode.outputs) if inference is None else 0
        fits = max((count for count in range(1, 65) if held + memory.activation_bytes(
            sizes, count, height, width, mode) <= free), default=0)
        needed = memory.activation_bytes(sizes, self._frames, height, width, mode)
        figures: dict[str, object] = {"free_bytes": free, "model_bytes": needed, "images_that_fit": fits}
        text = (f"{free / 1e9:.1f} GB free; {self._frames} images of {width}x{height} need {needed / 1e9:.2f} GB by "
                f"the model; {fits if fits < 64 else '64 or more'} fit at once")
        cure = "close other programs that use the GPU, lower windows.size, or vggt.width as the last resort"
        if inference is None or self._device.type == "cpu":
            level = GREEN if fits >= self._frames else YELLOW if fits >= 2 else RED
            yield Finding("memory", level, f"{text}; not measured on a CPU", "" if level == GREEN else cure, figures,
                          checked=False)
            return
        frames = min(self._frames, max(fits, 2))
        inference.run(_blank(frames, height, width))
        inference.clear_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        inference.run(_blank(frames, height, width))
        measured = torch.cuda.max_memory_allocated(self._device) - before
        model = memory.activation_bytes(sizes, frames, height, width, mode)
        figures["measured_bytes"] = measured
        text += f"; {frames} took {measured / 1e9:.2f} GB, {100 * measured / model:.0f} % of the model"
        if measured > model:
            yield Finding("memory", RED, text, "the model is too small for this machine: set vggt.memory to "
                          f"{0.8 * free / 1e9:.0f}, and please report it", figures)
        elif fits < self._frames:
            yield Finding("memory", YELLOW, text, f"windows are split; {cure}", figures)
        else:
            yield Finding("memory", GREEN, text, figures=figures)

    def speed(self) -> Iterator[Finding]:
        """Measure the time of a window."""
        inference = self._full_inference()
        if inference is None:
            yield Finding("speed", YELLOW, "not measured: the full network takes about 12 s an image on two CPU cores",
                          "a GPU, or reconstructor: multiview", checked=False)
            return
        width, height = self._size
        keyframes, seconds = _blank(self._frames, height, width), []
        for _ in range(4):
            inference.clear_cache()
            began = time.perf_counter()
            inference.run(keyframes)
            seconds.append(time.perf_counter() - began)
        median = float(np.median(seconds[1:]))
        rate = memory.window_tflop(inference.network.sizes, self._frames, height, width) / median
        text = f"{median:.3f} s for {self._frames} images of {width}x{height}, {rate:.3g} TFLOP/s, uncompiled"
        figures: dict[str, object] = {"seconds": median, "tflop_per_s": rate}
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "CPU"
        documented = next((value for part, value in DOCUMENTED.items() if part in name), None)
        if documented is None:
            yield Finding("speed", GREEN, f"{text}; no figure of this device is documented: please report yours",
                          figures=figures)
            return
        expected = documented * self._frames / 8 * width * height / (518 * 336)
        slow = median > 3 * expected
        text += f"; documented for the aggregator alone: {expected:.3f} s"
        yield Finding("speed", YELLOW if slow else GREEN, text,
                      "look at the attention kernel, at other programs on the GPU, and at its clock (nvidia-smi)"
                      if slow else "", figures)

    def _inference(self) -> Inference:
        return Inference(self._config.of(VggtConfig), self._device)

    def _full_inference(self) -> Inference | None:
        """Return the loaded network, else one of the full size with quickly generated weights; None on a CPU."""
        if self.loaded is not None:
            # On a CPU only a network that is much smaller than the published one is run.
            small = self.loaded.inference.network.sizes.depth * self.loaded.inference.network.sizes.embed_dim < 4000
            return self.loaded.inference if small or self._device.type == "cuda" else None
        if self._device.type == "cpu":
            return None
        gc.collect()
        torch.cuda.empty_cache()
        inference = self._inference()
        inference.set_network(quick_network(PUBLISHED, self._device, inference.storage, inference.outputs))
        return inference


def _keyframes(images: np.ndarray[Any, Any]) -> list[Keyframe]:
    """Return keyframes for images (S, 3, H, W) in [0, 1]."""
    pixels = np.rint(255 * images).astype(np.uint8).transpose(0, 2, 3, 1)
    k = np.array([[images.shape[3], 0, images.shape[3] / 2], [0, images.shape[3], images.shape[2] / 2], [0, 0, 1.0]])
    return [Keyframe(i, i, np.ascontiguousarray(image), k) for i, image in enumerate(pixels)]


def _blank(frames: int, height: int, width: int) -> tuple[Keyframe, ...]:
    return Window(0, tuple(_keyframes(rule.images(frames, height, width)))).keyframes
