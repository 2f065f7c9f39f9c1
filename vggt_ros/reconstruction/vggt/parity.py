"""The network against reference outputs: weights and images by the rule, relative errors out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vggt_ros.reconstruction.vggt import rule
from vggt_ros.reconstruction.vggt.decoding import camera_from_world, predicted_intrinsics, unproject
from vggt_ros.reconstruction.vggt.network import OUTPUTS, Network
from vggt_ros.reconstruction.vggt.reference import reference
from vggt_ros.reconstruction.vggt.sizes import Sizes
from vggt_ros.reconstruction.vggt.weights import stored


def rule_network(sizes: Sizes, seed: int) -> Network:
    """Return a float32 network with rule-made weights."""
    with torch.device("meta"):
        network = Network(sizes)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in rule.weights(sizes, seed)},
                            strict=True, assign=True)
    return network.requires_grad_(False)


def queries(height: int, width: int) -> Tensor:
    """Return the points (4, 2), pixels x y, that the reference files track from the first frame."""
    return torch.tensor([(10, 12), (40.5, 33.25), (width - 9, height - 20), (width / 2, height / 2)])


def outputs(network: Network, frames: int, height: int, width: int, stride: int,
            tracks: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and value of every array that a reference file holds, for the rule's images."""
    images = torch.from_numpy(rule.images(frames, height, width))
    with torch.inference_mode():
        layers = network.aggregate(network.aggregator.encode(images), (height, width))
        for layer in network.sizes.taps:
            x, special = layers[layer], network.aggregator.special
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
    """Return the norm of the difference over that of the reference; infinite where anything is not finite."""
    ours = np.asarray(ours, np.float64)
    if ours.shape != reference.shape or not np.isfinite(ours).all():
        return float("inf")
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference.astype(np.float64)))


def compare(file: Path, network: Network) -> dict[str, float]:
    """Return the relative error of every array of a reference file; infinite for one that we do not compute.

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

    Of each array, first that of ours, the matrices kept in bfloat16 (`network` is changed so), then that of the
    reference mode, autocast over float32 weights.
    """
    with np.load(file) as data:
        frames, height, width, _ = (int(value) for value in data["meta"])
    images = torch.from_numpy(rule.images(frames, height, width))
    exact, published = (reference(network, images, kind) for kind in (torch.float32, torch.bfloat16))
    for name, value in network.named_parameters():
        value.data = value.to(stored(name, tuple(value.shape), torch.bfloat16))
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            layers = network.aggregate(network.aggregator.encode(images), (height, width))
        ours = network.decode({layer: x.float() for layer, x in layers.items()}, (height, width), OUTPUTS)
    return {name: (relative_error(ours[name], value.numpy()), relative_error(published[name], value.numpy()))
            for name, value in exact.items()}


def track_spread(file: Path, network: Network, runs: int = 4, noise: float = 1e-7) -> dict[str, float]:
    """Return by how much float32's rounding moves the tracks: the median relative difference of two runs.

    The tracker embeds motion with angles of up to 1000 rad a pixel, and feeds it back four times. Features that differ
    by `noise`, about float32's rounding, give tracks that differ by far more: no two machines agree to better.
    """
    with np.load(file) as data:
        frames, height, width, _ = (int(value) for value in data["meta"])
    grid = (height // network.sizes.patch, width // network.sizes.patch)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        images = torch.from_numpy(rule.images(frames, height, width))
        layers = network.aggregate(network.aggregator.encode(images), (height, width))
        taps = [layers[tap][:, network.aggregator.special:] for tap in network.sizes.taps]
        features = network.track_head.feature_extractor(taps, grid)
        results = [network.track_head.tracker(
            features * (1 + noise * torch.randn(features.shape, generator=generator)), queries(height, width), 4)
            for _ in range(runs)]
    return {name: float(np.median([relative_error(a[part], b[part].numpy())
                                   for a, b in itertools.combinations(results, 2)]))
            for part, name in enumerate(("track_track", "track_vis", "track_conf"))}
