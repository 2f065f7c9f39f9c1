"""Windows that do not fit into memory are solved in parts, for any reconstructor that says what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.reconstruction.joining import join, split
from vggt_ros.reconstruction.window_limit import WindowLimit
from vggt_ros.windows.keyframe import Window


@dataclass(frozen=True)
class Memory:
    """What is known of the memory that a reconstructor needs.

    Attributes:
        needed_bytes: returns what a window of so many images (count, height, width) takes.
        free_bytes: returns what is available now; infinite if unknown.
        shortage: returns what is to be said of an error if memory ran out, empty if it is another error.
        clear_cache: frees what is not needed for the next attempt.
        cure: what helps where two images do not fit.

    """

    needed_bytes: Callable[[int, int, int], float]
    free_bytes: Callable[[], float]
    shortage: Callable[[Exception], str]
    clear_cache: Callable[[], None]
    cure: str = "use smaller images"


class WindowSplitter:
    """Solves windows in as many parts as memory requires: by what is known beforehand, and by attempts that failed.

    Attributes:
        limit: how many keyframes are solved at once.

    """

    def __init__(self, name: str, config: Config, memory: Memory) -> None:
        """Begin without a limit; `name` is for the log."""
        self._overlap, self._memory = config.windows.overlap, memory
        self.limit = WindowLimit(self._overlap, name, memory.cure)

    def limit_to_memory(self, count: int, height: int, width: int) -> None:
        """Adapt the limit to the memory that is free now; raises ReconstructionRefused if two images do not fit."""
        self.limit.update(count, lambda frames: self._memory.needed_bytes(frames, height, width),
                          self._memory.free_bytes(), f"{width}x{height}")

    def solve(self, window: Window, solve: Callable[[Window], WindowGeometry]) -> list[WindowGeometry]:
        """Return the geometry of a window, in parts that `solve` has solved; raises as it does.

        Raises:
            ReconstructionRefused: not even two images fit.

        """
        height, width = window.keyframes[0].image.shape[:2]
        self.limit_to_memory(len(window.keyframes), height, width)
        while True:
            parts = split(window, self._overlap, self.limit.most)
            try:
                return [solve(part) for part in parts]
            except (RuntimeError, MemoryError) as error:
                if not (shortage := self._memory.shortage(error)):
                    raise
            # Not in the handler: the exception references arrays until it is deleted.
            self._memory.clear_cache()
            self.limit.fail(len(parts[0].keyframes), self._memory.free_bytes(), shortage)


class SplittingReconstructor:
    """Solves the windows of another reconstructor in parts where memory is short.

    The other one has `needed_bytes` and `free_bytes`, and may have `is_out_of_memory` and `clear_cache`; see
    `OptionalMembers`. Whatever else it has is passed on.
    """

    def __init__(self, inner: Any, config: Config) -> None:
        """Split the windows of `inner`, a `Reconstructor`."""
        self._inner = inner
        self._config = config
        self.name: str = inner.name
        self.splitter = WindowSplitter(self.name, config, Memory(
            inner.needed_bytes, inner.free_bytes, self._shortage,
            getattr(inner, "clear_cache", lambda: None)))

    def __getattr__(self, name: str) -> Any:
        """Return what the other reconstructor has."""
        if name.startswith("__") or name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    @property
    def status_values(self) -> dict[str, str]:
        """Entries of the other reconstructor, and how windows are split."""
        reason = self.splitter.limit.reason
        return {**getattr(self._inner, "status_values", {}), **({"split": reason} if reason else {})}

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the images that the reconstructor needs from this camera."""
        size: tuple[int, int] = self._inner.image_size(camera)
        return size

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window, in parts if it does not fit; raises as the other reconstructor does.

        Raises:
            ReconstructionRefused: two images do not fit, or the parts are inconsistent.

        """
        parts = self.splitter.solve(window, self._inner.reconstruct)
        whole = join(parts, self._config.alignment)
        return replace(whole, report={**whole.report, "parts": float(len(parts))})

    def _shortage(self, error: Exception) -> str:
        recognized = getattr(self._inner, "is_out_of_memory", lambda error: isinstance(error, MemoryError))
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"memory ran out ({line})" if recognized(error) else ""
