"""Opens a pool of workers: processes on this machine, or a Ray cluster."""

from __future__ import annotations

from vggt_ros import plugins
from vggt_ros.config import Config
from vggt_ros.workers.pool import Pool
from vggt_ros.workers.processes import ProcessWorker
from vggt_ros.workers.ray_cluster import RayWorker, connect, workers_of

MAX_WORKERS = 1024


def open_pool(config: Config, count: int | None, address: str | None = None) -> Pool:
    """Return `count` workers for the reconstructor of the settings, on the cluster at `address` if one is given.

    Without a count, a cluster has as many workers as GPUs, or as cores for a reconstructor that runs on the CPU.

    Raises:
        ConfigError: the reconstructor cannot run, or not by workers; Ray is missing, or there is no cluster.
        ReconstructorLost: the first worker has died.

    """
    if address is None:
        return Pool(lambda: ProcessWorker(config), count or 1)
    ray = connect(address)
    gpus = "GPU" in ray.cluster_resources() and not _on_cpu(config)
    return Pool(lambda: RayWorker(ray, config, gpus), count or workers_of(ray, gpus))


def _on_cpu(config: Config) -> bool:
    """Return whether the configured reconstructor computes on the CPU; with `auto` it is one for GPUs, if there are."""
    if config.reconstructor == "auto":
        return False
    try:
        return bool(getattr(plugins.load_class(config.reconstructor), "on_cpu", False))
    except (ImportError, AttributeError):  # here, but it may be there
        return False
