"""Comparison with reference outputs of the published network, for the weights and images of `rule`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vggt_ros.reconstruction.vggt.checkpoints import rule
from vggt_ros.reconstruction.vggt.checkpoints.weights import storage_dtype
from vggt_ros.reconstruction.vggt.comparison.reference import run_reference
from vggt_ros.reconstruction.vggt.model.network import OUTPUTS, Network
from vggt_ros.reconstruction.vggt.model.sizes import Sizes
from vggt_ros.reconstruction.vggt.output.decoding import camera_from_world, predicted_intrinsics, unproject


def pseudo_random_network(sizes: Sizes, seed: int) -> Network:
    """Return a float32 network with the pseudo-random weights of `rule`."""
    with torch.device("meta"):
        network = Network(sizes)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in rule.weights(sizes, seed)},
                            strict=True, assign=True)
    return network.requires_grad_(False)


def queries(height: int, width: int) -> Tensor:
    """Return the points (4, 2), pixels x y, that are tracked from the first frame in the reference files."""
    return torch.tensor([(10, 12), (40.5, 33.25), (width - 9, height - 20), (width / 2, height / 2)])


def outputs(network: Network, frames: int, height: int, width: int, stride: int,
            tracks: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and value of every array in a reference file, computed for the images of `rule`."""
    images = torch.from_numpy(rule.images(frames, height, width))
    with torch.inference_mode():
        layers = network.aggregate(network.aggregator.encode(images), (height, width))
        for layer in network.sizes.taps:
            x, special = layers[layer], network.aggregator.special_tokens
            yield f"tokens_{layer}", x[:, [0, special - 1, special, -1], :16].numpy()
            yield f"tokens_{layer}_mean_std", torch.stack((x.mean(), x.std())).numpy()
        result = network.decode(layers, (height, width), OUTPUTS,
                                queries(height, width) if tracks else None)
    pose_enc, depth = result["pose_enc"].numpy(), result["depth"].numpy()
    cameras, intrinsics = camera_from_world(pose_enc), predicted_intrinsics(pose_enc, height, width)
    yield "pose_enc", pose_enc
    yield "camera_from_world", cameras[:, :3]
    yield "intrinsics", intrinsics
    yield "depth", depth[:, ::stride, ::stride, None]
    yield "unprojected_points", unproject(depth, np.linalg.inv(cameras), intrinsics)[:, ::stride, ::stride]
    for name in ("depth_conf", "world_points", "world_points_conf"):
        yield name, result[name][:, ::stride, ::stride].numpy()
    if tracks:
        yield "track_track", result["track"].numpy()
        yield "track_vis", result["track_vis"].numpy()
        yield "track_conf", result["track_conf"].numpy()


def relative_error(ours: np.ndarray | Tensor, reference: np.ndarray) -> float:
    """Return the norm of the difference over that of the reference; infinite if `ours` is not finite or misshaped."""
    ours = np.asarray(ours, np.float64)
    if ours.shape != reference.shape or not np.isfinite(ours).all():
        return float("inf")
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference.astype(np.float64)))


def compare(file: Path, network: Network) -> dict[str, float]:
    """Return the relative error of every array of a reference file; infinite for an array that is not computed.

    Raises:
        OSError, ValueError, KeyError: the file cannot be read or has no `meta`.

    """
    with np.load(file) as data:
        reference = {name: data[name] for name in data.files}
    frames, height, width, stride = (int(value) for value in reference.pop("meta"))
    ours = dict(outputs(network, frames, height, width, stride, "track_track" in reference))
    return {name: relative_error(ours[name], value) if name in ours else float("inf")
            for name, value in reference.items()}


def bfloat16_errors(file: Path, network: Network) -> dict[str, tuple[float, float]]:
    """Return the relative error of cameras, depth and points with bfloat16 in the aggregator, against float32.

    For each array the error of our mode, with matrices stored in bfloat16 (`network` is modified), and the error of the
    reference mode, autocast with float32 weights.
    """
    with np.load(file) as data:
        frames, height, width, _ = (int(value) for value in data["meta"])
    images = torch.from_numpy(rule.images(frames, height, width))
    exact, published = (run_reference(network, images, kind) for kind in (torch.float32, torch.bfloat16))
    for name, value in network.named_parameters():
        value.data = value.to(storage_dtype(name, tuple(value.shape), torch.bfloat16))
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            layers = network.aggregate(network.aggregator.encode(images), (height, width))
        ours = network.decode({layer: x.float() for layer, x in layers.items()}, (height, width), OUTPUTS)
    return {name: (relative_error(ours[name], value.numpy()), relative_error(published[name], value.numpy()))
            for name, value in exact.items()}


def track_rounding_error(file: Path, network: Network, runs: int = 4, noise: float = 1e-7) -> dict[str, float]:
    """Return the effect of float32 rounding on the tracks: the median relative difference between two runs.

    The tracker embeds motion with angles of up to 1000 rad per pixel, and iterates four times. Features that differ by
    `noise`, about the rounding error of float32, give tracks that differ by far more; two machines do not agree better.
    """
    with np.load(file) as data:
        frames, height, width, _ = (int(value) for value in data["meta"])
    grid = (height // network.sizes.patch, width // network.sizes.patch)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        images = torch.from_numpy(rule.images(frames, height, width))
        layers = network.aggregate(network.aggregator.encode(images), (height, width))
        taps = [layers[tap][:, network.aggregator.special_tokens:] for tap in network.sizes.taps]
        features = network.track_head.features(taps, grid, frames)
        results = [network.track_head.tracker(
            features * (1 + noise * torch.randn(features.shape, generator=generator)), queries(height, width), 4)
            for _ in range(runs)]
    return {name: float(np.median([relative_error(a[part], b[part].numpy())
                                   for a, b in itertools.combinations(results, 2)]))
            for part, name in enumerate(("track_track", "track_vis", "track_conf"))}
