"""Compiled blocks: `torch.compile` for the shapes of the camera's full windows, with a fallback that says why.

All blocks of a stage are compiled once, because the function that is compiled takes the block as an argument: three
graphs, for the encoder, for the tokens of one frame and for those of all frames.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggt_ros.reconstruction.vggt.device_errors import first_line, is_lost, is_out_of_memory
from vggt_ros.reconstruction.vggt.model.blocks import Attention, RotaryTable, place, run_block

log = logging.getLogger(__name__)


class CompiledBlocks:
    """Runs blocks, compiled where their shape was recorded, otherwise as they are.

    Attributes:
        state: `no`, `yes` with the shapes, or `no` with the reason why not although it is wanted.

    """

    def __init__(self, wanted: str, device: torch.device) -> None:
        """Decide whether to compile; `wanted` as `vggt.compile`."""
        problem = compiler_problem(device) if wanted == "auto" and device.type == "cuda" else ""
        self.enabled = wanted == "true" or (wanted == "auto" and device.type == "cuda" and not problem)
        self.state = f"no: {problem}" if problem else "no"
        self._run: Any = torch.compile(run_block, dynamic=False) if self.enabled else run_block
        self._shapes: set[tuple[object, ...]] = set()
        self._record: Callable[[], None] | None = None

    def __call__(self, block: nn.Module, x: Tensor, table: RotaryTable | None = None) -> Tensor:
        """Return the result of a block."""
        key = (*x.shape, table is None)
        if key not in self._shapes:
            if self._record is None or not self.enabled:
                return run_block(block, x, table)
            self._record()
            self._shapes.add(key)
        try:
            result: Tensor = self._run(block, x, table)
            return result
        except Exception as error:  # compilers fail in many ways: not installed, or this device is not supported
            if is_out_of_memory(error) or is_lost(error):
                raise
            self.disable(f"{type(error).__name__}: {first_line(error)}")
        return run_block(block, x, table)

    @contextmanager
    def recording(self, progress: Callable[[str], None]) -> Iterator[None]:
        """Compile for all shapes that occur in the body, and no longer for those of before.

        `progress` is called before each; an exception that it raises ends the body.
        """
        torch.compiler.reset()
        self._shapes.clear()

        def record() -> None:
            progress(f"compiling the network, part {len(self._shapes) + 1} of 3")

        self._record = record
        try:
            yield
        except BaseException:
            self._shapes.clear()
            raise
        finally:
            self._record = None

    def disable(self, reason: str) -> None:
        """Run uncompiled from now on."""
        self.enabled, self.state = False, f"no, because of {reason}"
        self._shapes.clear()
        log.warning("vggt.compile: the network runs uncompiled, because of %s", reason)


class FusedPlacement:
    """Normalization and rotary embedding of q and k in one compiled kernel, for any shape; uncompiled if that fails."""

    def __init__(self) -> None:
        """Compile at the first call."""
        self.reason = ""
        self._place: Any = torch.compile(place, dynamic=True)

    def install(self, network: nn.Module) -> None:
        """Use it in all attention layers of a network."""
        for module in network.modules():
            if isinstance(module, Attention):
                module.fused = self

    def __call__(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Return what `place` returns."""
        if not self.reason:
            try:
                q, k = self._place(*arguments)
                return q, k
            except Exception as error:
                if is_out_of_memory(error) or is_lost(error):
                    raise
                self.reason = f"{type(error).__name__}: {first_line(error)}"
                log.warning("vggt: normalization and rotary embedding run uncompiled, because of %s", self.reason)
        return place(*arguments)


def compiler_problem(device: torch.device) -> str:
    """Return why blocks cannot be compiled for a GPU, empty if they probably can."""
    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version < (2, 5):
        return f"torch {torch.__version__} would compile each block anew; 2.5 or newer is needed"
    if find_spec("triton") is None:
        return "triton is not installed"
    if torch.cuda.get_device_capability(device) < (7, 0):
        return "triton does not support this GPU"
    compiler = os.environ.get("CC") or next((name for name in ("gcc", "clang", "cc") if shutil.which(name)), "")
    if not shutil.which(compiler):
        return "there is no C compiler (apt install gcc)"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "Python.h is missing (apt install python3-dev)"
    return ""
