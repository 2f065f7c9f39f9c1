"""Check the weights of a file and load them; nothing of a file is ever executed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from vggt_ros.reconstruction.da3.network import DepthAnything3Net, build, drop_unused, unused_prefixes
from vggt_ros.reconstruction.da3.sizes import PUBLISHED, Sizes, recognized
from vggt_ros.reconstruction.vggt.checkpoints.tensor_file import open_tensors
from vggt_ros.reconstruction.vggt.checkpoints.weight_files import WeightsError
from vggt_ros.reconstruction.vggt.checkpoints.weights import check_tensors, read_finite

FILE_NAMES = ("model.safetensors",)
LICENSE = ("The weights of Depth Anything 3 LARGE and GIANT are for non-commercial use only (CC BY-NC 4.0); those of "
           "SMALL and BASE are under Apache-2.0.")
_PREFIX = "model."
"""Of the names in published files."""
log = logging.getLogger(__name__)
_license_logged: set[str] = set()


def find_sizes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, Sizes]:
    """Return name and sizes of the network in a file.

    Args:
        path: the file; a `config.json` in the same folder may define sizes under the key `sizes`. Everything else in it
            is ignored: the package would import what it names.
        shapes: name to shape, of the tensors in the file.

    Raises:
        WeightsError: it is no known network with a camera head, or `config.json` is damaged.

    """
    config = path.parent / "config.json"
    try:
        own = Sizes.load(config) if config.is_file() else None
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise WeightsError(f"da3.weights: {config} does not contain valid network sizes: {error}") from error
    if own is not None:
        return "custom", own
    if any(name.startswith(("da3.", "da3_metric.")) for name in shapes):
        raise WeightsError(f"da3.weights: {path} is a nested network (DA3NESTED): only {', '.join(PUBLISHED)} are "
                           "supported")
    if not any(name.startswith("cam_dec.") for name in shapes):
        raise WeightsError(f"da3.weights: {path} has no camera head, as DA3METRIC and DA3MONO: it predicts no poses; "
                           f"use one of {', '.join(PUBLISHED)}")
    if name := recognized(shapes):
        return name, PUBLISHED[name]
    raise WeightsError(f"da3.weights: {path} is none of {', '.join(PUBLISHED)}; put a config.json with its sizes into "
                       "the same folder")


def load(path: Path, device: torch.device, known_poses: bool = False,
         progress: Callable[[float], None] | None = None) -> tuple[DepthAnything3Net, str, Sizes]:
    """Return the network with its weights in float32 on `device`, its name, and its sizes.

    Args:
        path: the weights file, see `find_sizes`.
        device: the device to load to.
        known_poses: whether poses will be given to the network: their encoder is loaded only then.
        progress: called with the fraction done; an exception that it raises ends the loading.

    Raises:
        WeightsError: the file is damaged, is another network, or has values that are not finite.
        RuntimeError: torch cannot copy to the device, for lack of memory for example.

    """
    unused = unused_prefixes(known_poses)
    with open_tensors(path, "da3") as file:
        prefix = _PREFIX if any(name.startswith(_PREFIX) for name in file.shapes) else ""
        found = {name.removeprefix(prefix): shape for name, shape in file.shapes.items()}
        kind, sizes = find_sizes(path, found)
        _log_license(kind)
        with torch.device("meta"):
            network = build(sizes)
        expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        others = [name for name in found if name not in expected and not name.startswith(("gs_head.", "gs_adapter."))]
        if others:  # the package itself ignores them
            log.warning("da3: %s has %d tensors that the network does not have, first %s: they are not used", path,
                        len(others), others[0])
        check_tensors({name: shape for name, shape in found.items() if name in expected}, expected, path,
                      {name.removeprefix(prefix): dtype for name, dtype in file.not_float.items()}, unused, "da3",
                      f"Depth Anything 3, {kind}")
        kept = {f"{prefix}{name}": torch.float32 for name in expected if not name.startswith(unused)}
        state = read_finite(file, kept, path, device, progress, "da3")
    drop_unused(network, known_poses)
    network.load_state_dict({name.removeprefix(prefix): value for name, value in state.items()}, strict=True,
                            assign=True)
    return network.requires_grad_(False), kind, sizes


def _log_license(kind: str) -> None:
    """Say once what the weights may not be used for."""
    if kind in ("LARGE", "GIANT") and not _license_logged:
        _license_logged.add(LICENSE)
        log.warning(LICENSE)
