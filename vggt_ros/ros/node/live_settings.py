"""Settings that change while the node runs: applied together on the worker thread, however fast they arrive."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from vggt_ros.config import Config
from vggt_ros.slam import Slam


class LiveSettings:
    """Applies the newest settings to the pipeline."""

    def __init__(self, slam: Slam, run_in_worker: Callable[[Callable[[], Any]], Future[Any]]) -> None:
        """Apply to `slam`; `run_in_worker` runs a function on the worker thread, which owns the map."""
        self._slam, self._run_in_worker = slam, run_in_worker
        self._newest: Config | None = None

    def apply(self, config: Config) -> None:
        """Apply these settings as soon as the worker is free; changes that arrive meanwhile are applied with them."""
        is_waiting, self._newest = self._newest is not None, config
        if not is_waiting:
            self._run_in_worker(self._configure)

    def _configure(self) -> None:
        config, self._newest = self._newest, None
        if config is not None:
            self._slam.configure(config)
