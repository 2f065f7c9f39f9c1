"""What an error of torch means: memory ran out, the context of the GPU is lost, or torch does not support the GPU.

torch has no type for most of these, and the text differs between versions and platforms, so they are recognized by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vggt_ros.reconstruction.base import ReconstructorLost, ReconstructorUnavailable

_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, the driver, Triton
    "alloc_failed", "allocation_failed",  # cuBLAS and cuDNN, for their handles and workspaces
    # On Tegra NVML does not answer, and the allocator that wants to report the shortage fails (pytorch issue 185240).
    "nvml_success == r internal assert",
    "can't allocate memory", "cannot allocate memory", "std::bad_alloc",  # CPU: the allocator, mmap, C++
)
_LOST = ("illegal memory access", "device-side assert", "unspecified launch failure", "misaligned address",
         "illegal instruction", "invalid program counter", "hardware stack error", "launch timed out",
         "uncorrectable ecc", "gpu is lost", "unknown error", "context is destroyed", "driver shutting down",
         "busy or unavailable")
"""After these every call of CUDA in the process fails: the context is corrupted, or the device has gone."""
_UNSUPPORTED = ("no kernel image is available", "invalid device function", "unsupported toolchain",
                "driver version is insufficient")


class DeviceUnsuitable(ReconstructorUnavailable):
    """The network cannot run on this device: too little memory, or a GPU that torch does not support; with the cure."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error means out of memory, on a GPU or on a CPU."""
    # The type `torch.OutOfMemoryError` has this name from torch 2.5 on.
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or _contains(error, _OUT_OF_MEMORY)


def is_lost(error: BaseException) -> bool:
    """Return True if the context of the GPU is lost: only another process can go on with the GPU."""
    return "cuda" in str(error).lower() and not is_out_of_memory(error) and _contains(error, _LOST)


def is_unsupported(error: BaseException) -> bool:
    """Return True if torch was not built for this GPU or for its driver."""
    return _contains(error, _UNSUPPORTED)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not empty, or its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def device_problem(error: BaseException, device: object, when: str, owner: str = "vggt") -> str:
    """Return what is wrong with the device, with the cure; empty if the error is about something else.

    `owner` is the group of the setting `width`.
    """
    if is_out_of_memory(error):
        return (f"memory ran out on {device} {when} ({first_line(error)}): close other programs that use it, or lower "
                f"{owner}.width or windows.size")
    if is_unsupported(error):
        return (f"torch {torch.__version__} does not run on this GPU ({first_line(error)}): install a build for it and "
                "for its driver (docs/how-to/install.md)")
    return ""


@contextmanager
def lost_context() -> Iterator[None]:
    """Raise ReconstructorLost for an error of CUDA after which nothing can be computed in this process."""
    try:
        yield
    except RuntimeError as error:
        if is_lost(error):
            raise ReconstructorLost(f"the context of the GPU is lost ({first_line(error)})") from error
        raise


def _contains(error: BaseException, texts: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(part in text for part in texts)
