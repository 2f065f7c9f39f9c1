"""Reading of tensors from `.safetensors` and `.pt` files; never unpickles code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vggt_ros.reconstruction.vggt.checkpoints.weight_files import WeightsError
from vggt_ros.reconstruction.vggt.device_errors import is_out_of_memory

_MAX_HEADER = 100_000_000
"""Longest header of a `.safetensors` file, bytes, as in the library."""


@dataclass(frozen=True)
class TensorFile:
    """An open file.

    Attributes:
        shapes: name to shape, of all tensors in it.
        not_float: name to type, of those that are not floating point numbers.
        read: returns the tensor of a name, on the CPU; raises WeightsError if it cannot be read.

    """

    shapes: Mapping[str, tuple[int, ...]]
    not_float: Mapping[str, str]
    read: Callable[[str], Tensor]


@contextmanager
def open_tensors(path: Path, owner: str = "vggt") -> Iterator[TensorFile]:
    """Open a file of weights; what its tensors are used for in the body may raise anything, unchanged.

    Args:
        path: the file.
        owner: group of the setting `weights`, for messages.

    Raises:
        WeightsError: the file cannot be read.

    """
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with _reading(path, owner):
            _check_size(path, owner)
            opened = safe_open(path, framework="pt")
        with opened as file:
            with _reading(path, owner):
                slices = {name: file.get_slice(name) for name in list(file.keys())}
                types = {name: str(part.get_dtype()) for name, part in slices.items()}
                shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            not_float = {name: kind for name, kind in types.items() if kind not in ("F64", "F32", "F16", "BF16")}
            yield TensorFile(shapes, not_float, _guarded(path, owner, file.get_tensor))
    else:
        with _reading(path, owner):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            state = state.get("model", state) if isinstance(state, Mapping) else state
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise WeightsError(f"{owner}.weights: {path} is not a state dict")
        yield TensorFile({name: tuple(value.shape) for name, value in state.items()},
                         {name: str(value.dtype).removeprefix("torch.") for name, value in state.items()
                          if not value.is_floating_point()}, _guarded(path, owner, state.__getitem__))


def release_page_cache(path: Path) -> None:
    """Let the system drop a file from its page cache: where GPU and CPU share the memory, the cache takes it from both.

    Nobody may have the file mapped. Where the system has no such call, nothing happens.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


@contextmanager
def _reading(path: Path, owner: str) -> Iterator[None]:
    """Turn the error of reading a damaged file, for which the libraries have various types, into WeightsError.

    Lack of memory to map or copy the file is raised as it is.
    """
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        what = f"{owner}.weights: {path} cannot be read ({type(error).__name__}: {error})"
        if isinstance(error, OSError):  # no permission, a disk or a network file system that fails
            raise WeightsError(what) from error
        raise WeightsError(f"{what}; it may be truncated: delete it and download it again") from error


def _guarded(path: Path, owner: str, read: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
    def guarded(name: str) -> Tensor:
        with _reading(path, owner):
            return read(name)

    return guarded


def _check_size(path: Path, owner: str) -> None:
    """Compare the size of a `.safetensors` file with its header; raises WeightsError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            return  # the library says what is wrong
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        cause = "it may be truncated: " if size < expected else ""
        raise WeightsError(f"{owner}.weights: {path} has {size} bytes, but by its header {expected}; {cause}delete "
                           "it and download it again")
