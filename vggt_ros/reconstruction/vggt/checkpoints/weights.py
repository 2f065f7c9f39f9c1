"""Check the weights of a file and load them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from vggt_ros.reconstruction.vggt.checkpoints.tensor_file import TensorFile, open_tensors
from vggt_ros.reconstruction.vggt.checkpoints.weight_files import WeightsError
from vggt_ros.reconstruction.vggt.model.network import Network
from vggt_ros.reconstruction.vggt.model.sizes import PUBLISHED, Sizes

LICENSE = ("The weights of VGGT-1B are for non-commercial use only; those of VGGT-1B-Commercial are given on "
           "application and exclude military use. Both licenses are Meta's: read them on the model's page.")
HEAD_OF_OUTPUT = {"points": "point_head", "tracks": "track_head", "depth": "depth_head", "cameras": "camera_head"}
log = logging.getLogger(__name__)
_license_logged: set[str] = set()


def tensor_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a network's state dict."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in Network(sizes).state_dict().items()}


def storage_dtype(name: str, shape: tuple[int, ...], storage: torch.dtype) -> torch.dtype:
    """Return the type in which a tensor is stored: `storage` for the matrices of the aggregator, else float32."""
    matrix = name.startswith("aggregator.") and name.endswith(".weight") and len(shape) == 2
    return storage if matrix else torch.float32


def read_sizes(config: Path) -> Sizes:
    """Return the sizes in a `config.json`, the published ones if the file does not exist; raises WeightsError."""
    try:
        return Sizes.load(config) if config.is_file() else PUBLISHED
    except (ValueError, TypeError, OSError) as error:
        raise WeightsError(f"vggt.weights: {config} does not contain valid network sizes: {error}") from error


def check_tensors(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], path: Path,
                  not_float: Mapping[str, str] | None = None, unused: tuple[str, ...] = (),
                  owner: str = "vggt", network: str = "VGGT of these sizes") -> None:
    """Compare names, shapes and types of tensors.

    Args:
        found: name to shape, of the tensors in the file.
        expected: name to shape, of the tensors of the network.
        path: the file.
        not_float: name to type, of the tensors in the file that are not floating point numbers.
        unused: prefixes of the tensors of heads that are not needed, and may be missing.
        owner: group of the setting `weights`, for messages.
        network: what the file should be, for messages.

    Raises:
        WeightsError: the text names the first missing, unknown, misshaped and not real tensor.

    """
    needed = [name for name in expected if not name.startswith(unused)]
    missing = [name for name in needed if name not in found]
    extra = [name for name in found if name not in expected]
    misshaped = [name for name in needed if name in found and found[name] != expected[name]]
    problems = [f"{len(names)} {what}, first {names[0]}" for what, names in
                (("missing", missing), ("not known", extra), ("of another shape", misshaped)) if names]
    if misshaped:
        problems[-1] += f" ({found[misshaped[0]]} instead of {expected[misshaped[0]]})"
    if problems:
        raise WeightsError(f"{owner}.weights: {path} is not {network}: tensors {'; '.join(problems)}. Use the "
                           "published file, or put a config.json with its sizes into the same folder")
    integers = [name for name in needed if name in (not_float or {})]
    if not_float and integers:
        raise WeightsError(f"{owner}.weights: {path} has {len(integers)} tensors that are not floating point numbers, "
                           f"first {integers[0]} ({not_float[integers[0]]}): quantized weights are not supported")


def unused_prefixes(outputs: Collection[str]) -> tuple[str, ...]:
    """Return the prefixes of the tensors of the heads that are not needed for the given outputs."""
    return tuple(f"{head}." for output, head in HEAD_OF_OUTPUT.items() if output not in outputs)


def drop_heads(network: Network, outputs: Collection[str]) -> None:
    """Remove from a network the heads that are not needed for the given outputs."""
    for output, head in HEAD_OF_OUTPUT.items():
        if output not in outputs:
            delattr(network, head)


def load(path: Path, device: torch.device, storage: torch.dtype = torch.float32,
         outputs: Collection[str] = ("cameras", "depth"), progress: Callable[[float], None] | None = None) -> Network:
    """Return the network with its weights on `device`; heads that `outputs` does not need are not loaded.

    Args:
        path: the weights file; a `config.json` in the same folder defines sizes other than the published ones.
        device: the device to load to.
        storage: type of the matrices of the aggregator; everything else stays in float32.
        outputs: as in `Network.decode`.
        progress: called with the fraction done; an exception that it raises ends the loading.

    Raises:
        WeightsError: the file is damaged, does not have these sizes, or has values that are not finite.
        RuntimeError: torch cannot copy to the device, for lack of memory for example.

    """
    if not _license_logged:  # once, at the first load
        _license_logged.add(LICENSE)
        log.warning(LICENSE)
    sizes = read_sizes(path.parent / "config.json")
    with torch.device("meta"):
        network = Network(sizes)
    unused = unused_prefixes(outputs)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    with open_tensors(path) as file:
        check_tensors(file.shapes, expected, path, file.not_float, unused)
        kept = {name: storage_dtype(name, shape, storage) for name, shape in expected.items()
                if not name.startswith(unused)}
        state = read_finite(file, kept, path, device, progress)
    drop_heads(network, outputs)
    network.load_state_dict(state, strict=True, assign=True)
    return network.requires_grad_(False)


def read_finite(file: TensorFile, kept: Mapping[str, torch.dtype], path: Path, device: torch.device,
                progress: Callable[[float], None] | None = None, owner: str = "vggt") -> dict[str, Tensor]:
    """Return tensors of an open file on `device`.

    Args:
        file: the open file.
        kept: name to type, of the tensors that are read.
        path: of the file, for messages.
        device: the device to copy to.
        progress: called with the fraction done; an exception that it raises ends the reading.
        owner: group of the setting `weights`, for messages.

    Raises:
        WeightsError: a tensor cannot be read, or has values that are not finite.
        RuntimeError: torch cannot copy to the device, for lack of memory for example.

    """
    state: dict[str, Tensor] = {}
    finite: list[Tensor] = []
    for number, (name, dtype) in enumerate(kept.items()):
        state[name] = file.read(name).to(device, dtype, copy=True)
        finite.append(state[name].isfinite().all())
        if progress is not None and number % 50 == 0:
            progress(number / len(kept))
    invalid = [name for name, good in zip(state, torch.stack(finite).tolist(), strict=True) if not good]
    if invalid:
        kind = str(state[invalid[0]].dtype).removeprefix("torch.")
        raise WeightsError(f"{owner}.weights: {path} has NaN or infinite values in {len(invalid)} tensors, first "
                           f"{invalid[0]} (as {kind}): download it again, or set {owner}.dtype to float32 if it is "
                           "right")
    return state
