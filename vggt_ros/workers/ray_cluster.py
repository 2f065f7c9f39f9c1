"""A worker that is an actor of a Ray cluster (Moritz et al., Ray, OSDI 2018); Ray is an extra."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import socket
from typing import Any

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import ReconstructorLost
from vggt_ros.settings import ConfigError
from vggt_ros.threads import single_threaded_blas, single_threaded_opencv
from vggt_ros.workers.local import LocalWorker
from vggt_ros.workers.requests import Answer, Request
from vggt_ros.workers.worker import Create, create_unrefined

_LOG = logging.getLogger(__name__)
_PATIENCE = 20.0
"""Seconds after which it is said that a worker waits for room in the cluster."""


class Actor(LocalWorker):
    """What runs on the cluster: a worker in the actor's process, whose reconstructor stays loaded."""

    def __init__(self, config: Config, create: Create) -> None:
        """Create the reconstructor; raises as `create` does."""
        single_threaded_blas()
        single_threaded_opencv()
        super().__init__(config, create)

    def describe(self) -> tuple[str, str, str, bool]:
        """Return name, reason, `carries` and `adjusted`, as of a `Worker`."""
        return self.name, self.reason, self.carries, self.adjusted


def connect(address: str) -> Any:
    """Return Ray, connected to the cluster at an address: `HOST:PORT`, `auto`, or `local` for one on this machine.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.

    """
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # with 20, a wrong address is named after 13 minutes
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None:  # without origin it is a folder of that name, such as Ray's own in /tmp
        raise ConfigError("--ray needs Ray, which is not installed: pip install -r requirements-cluster.txt")
    ray = importlib.import_module("ray")
    if not ray.is_initialized():
        host, _, port = address.rpartition(":")
        if port.isdecimal() and "/" not in host:
            try:
                socket.create_connection((host, int(port)), timeout=5).close()
            except (OSError, OverflowError) as error:
                raise ConfigError(f"--ray {address}: no cluster answers there ({error}); `ray start --head` prints its "
                                  "address") from error
        try:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"--ray {address}: {error}") from error
    return ray


def workers_of(ray: Any, gpus: bool) -> int:
    """Return how many workers a cluster has room for: one on each GPU, or on each core."""
    return max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))


class RayWorker:
    """Answers requests by an actor of a cluster; see `Worker`."""

    def __init__(self, ray: Any, config: Config, gpus: bool = False, create: Create = create_unrefined) -> None:
        """Start an actor, which takes a GPU with `gpus`, else a core; raises as `create` does."""
        self._ray = ray
        kind = ray.remote(num_gpus=1 if gpus else 0, num_cpus=0 if gpus else 1, max_restarts=0)(Actor)
        self._actor = kind.remote(config, create)
        description = self._actor.describe.remote()
        with contextlib.suppress(ray.exceptions.RayError):  # which `_get` raises
            if not ray.wait([description], timeout=_PATIENCE)[0]:
                _LOG.warning("a worker is not there yet: it is loading, or waits for a free %s of the cluster",
                             "GPU" if gpus else "core")
        self.name, self.reason, self.carries, self.adjusted = self._get(description)

    @property
    def actor(self) -> Any:
        """The actor."""
        return self._actor

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the images that the reconstructor needs from this camera."""
        size: tuple[int, int] = self._get(self._actor.image_size.remote(camera))
        return size

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request; raises ReconstructorLost if the actor has died, with its machine or alone."""
        result: Answer = self._get(self._actor.answer.remote(request))
        return result

    def cancel(self) -> None:
        """End the actor, also while it answers."""
        self._ray.kill(self._actor)

    close = cancel

    def _get(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError,
                self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.NodeDiedError) as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, ConfigError):
                raise cause from error
            raise ReconstructorLost(f"a worker of the cluster has died: {str(error).strip().splitlines()[-1][:160]}") \
                from error
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error)) from error
