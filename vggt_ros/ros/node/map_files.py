"""Commands to save and load maps, and loading at the start."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rclpy.lifecycle import LifecycleNode

from vggt_ros.config import Config
from vggt_ros.geometry.poses import Array
from vggt_ros.mapping.files.restored_map import RestoredMap, restore
from vggt_ros.ros.common.periodic import PeriodicThread
from vggt_ros.ros.node.map_adjuster import MapAdjuster
from vggt_ros.ros.node.services import CommandSteps
from vggt_ros.ros.tf.transforms import Transforms
from vggt_ros.slam import Slam
from vggt_ros.storage.map_folder import StorageError, check_replaceable, load_map, map_folder, save_map


class MapFiles:
    """Saves and loads maps in `map.folder`.

    The disk is accessed by the worker, and by a thread that looks whether maps can be saved: a network drive that hangs
    blocks neither the executor nor the end of the node.

    Attributes:
        adjuster: adjusts all keyframes at once before a map is saved by name.
        problems: in one line that maps cannot be saved, with the cure; empty if they can.
        saved_keyframes, loaded_keyframes: number of keyframes in the map that was last saved, or loaded.
        load_error: why the map that should be loaded at the start is not loaded; empty if there is no such error.

    """

    def __init__(self, node: LifecycleNode, config: Callable[[], Config], slam: Slam, transforms: Transforms,
                 run_in_worker: Callable[[Callable[[], Any]], Future[Any]],
                 restart: Callable[[str, RestoredMap], Future[Any]]) -> None:
        """Prepare; `load_at_start` loads.

        Args:
            node: the node.
            config: returns the current settings.
            slam: the SLAM instance, which has the map.
            transforms: the transforms, with `map_world`.
            run_in_worker: runs a function on the worker thread, which owns the map and accesses the disk.
            restart: continues from a saved map; called with the reason to log and the map.

        """
        self._node, self._config, self._slam, self._transforms = node, config, slam, transforms
        self._run_in_worker, self._restart = run_in_worker, restart
        self.adjuster, self.load_error = MapAdjuster(slam, config, run_in_worker), ""
        self.saved_keyframes = self.loaded_keyframes = 0
        self._pending_load: tuple[CommandSteps, Future[Any]] | None = None
        self.problems: list[str] = []
        self._check = PeriodicThread(self._look_at_folder, 2.0, "vggt_ros_map_folder")

    def close(self) -> None:
        """Stop looking at the folder, without waiting for a drive that hangs, and save what waits to be adjusted."""
        self.adjuster.close()
        self._check.close(timeout=1.0)

    @property
    def expects_map(self) -> bool:
        """Whether a saved map is loaded, or is to be loaded."""
        config = self._config()
        return config.map.load or config.mode == "localization" or self._transforms.loaded_world is not None

    def save(self, name: str = "") -> CommandSteps:
        """Save the map under a name, by default `map.name`."""
        config, map_world = self._config(), self._transforms.map_world
        folder = yield self.adjuster.call(lambda: self._save(_folder(config, name), map_world, True))
        return str(folder)

    def autosave(self) -> None:
        """With `map.autosave`, save the map under a name of its own; returns at once, the result is logged.

        It is saved as it is, since the map is replaced then, or the node ends. A `save` that waits is done first.
        """
        self.adjuster.end_early()
        config, map_world = self._config(), self._transforms.map_world
        if not config.map.autosave or config.mode == "localization" or map_world is None:
            return
        log = self._node.get_logger()

        def report(done: Future[Any]) -> None:
            if error := done.exception():
                log.error(f"the map is not saved: {error}")
            else:
                log.info(f"the map is saved as {done.result()}")

        def save() -> Path:
            return self._save(_folder(config, f"{config.map.name}_autosave"), map_world)

        if len(self._slam.solution):
            self._run_in_worker(save).add_done_callback(report)

    def load(self, name: str = "") -> CommandSteps:
        """Continue from a saved map, by default `map.name`; if it cannot be loaded, the current map is kept."""
        config = self._config()

        def read() -> tuple[Path, RestoredMap]:
            folder = _folder(config, name)
            return folder, restore(load_map(folder), config, str(folder))

        folder, restored = yield self._run_in_worker(read)
        yield self._restart(f"{folder} is loaded", restored)
        self.load_error, self.loaded_keyframes = "", len(restored.record)
        return f"{len(restored.record)} keyframes from {folder}"

    def load_at_start(self) -> None:
        """Start to load the map if configured; a failure is logged, and remains in the status."""
        config = self._config()
        if config.map.load or config.mode == "localization":
            self.load_error, steps = "the map is being loaded", self.load()
            self._pending_load = steps, next(steps)

    def reload(self) -> None:
        """Load the map again after a reset in mode localization, which needs it."""
        if self._config().mode == "localization":
            self.load_at_start()

    def continue_loading(self) -> None:
        """Continue the loading at the start; called periodically on the executor thread."""
        if self._pending_load is None or not self._pending_load[1].done():
            return
        (steps, future), self._pending_load = self._pending_load, None
        try:
            self._pending_load = steps, steps.send(future.result())
        except StopIteration as end:
            self._node.get_logger().info(f"loaded: {end.value}")
        except Exception as error:
            self._report_load_error(error)

    def _report_load_error(self, error: Exception) -> None:
        self.load_error = f"no map was loaded: {error}"
        self._node.get_logger().error(self.load_error)

    def _look_at_folder(self) -> None:
        config, problems = self._config(), []
        try:
            if config.mode != "localization":
                check_replaceable(_folder(config))
        except StorageError as error:
            problems = [f"map.folder, map.name: {error}; set map.folder to a folder that this user may write"]
        self.problems = problems

    def _save(self, folder: Path, map_world: Array | None, complete: bool = False) -> Path:
        """Write the map in the frame `map` (z up), as it is published; return the folder."""
        if map_world is None:
            raise StorageError("the map is empty")
        solution = self._slam.solution
        if complete and not self.adjuster.closed:
            self._slam.surface.update(solution, complete=True)
        save_map(folder, self._slam.record(map_world), self._slam.map_cloud().transformed(map_world),
                 map_world @ solution.map_camera, self._config())
        self.saved_keyframes = len(solution)
        return folder


def _folder(config: Config, name: str = "") -> Path:
    """Return the folder of the map with a name, by default `map.name`; raises StorageError, and accesses the disk."""
    return map_folder(config.map.folder, name or config.map.name)
