"""A pool of workers: requests wait in one queue, and one whose worker has died is sent again."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import ReconstructorLost
from vggt_ros.workers.requests import Answer, Request
from vggt_ros.workers.worker import Worker

_LOG = logging.getLogger(__name__)
MAX_ATTEMPTS = 4
"""How often a request is sent: one that ends its worker each time would end all of them."""
_Entry = tuple[int, int, Request | None, "Future[Answer]"]


class Pool:
    """Answers requests on several workers; the results do not depend on how many there are.

    Attributes:
        name, reason, carries, adjusted: as of the workers.
        size: number of workers.
        retries: how many requests were sent again because their worker had died.
        answered: how many requests were answered.

    """

    def __init__(self, start: Callable[[], Worker], size: int) -> None:
        """Start the first worker, and the others in the background; `start` is called again for one that has died.

        Raises as `start` does.
        """
        self._start = start
        self.size, self.retries, self.answered = size, 0, 0
        self._closed, self._lock = threading.Event(), threading.Lock()
        self._entries: queue.PriorityQueue[_Entry] = queue.PriorityQueue()
        self._numbers = itertools.count()
        first = start()
        self.name, self.reason, self.carries, self.adjusted = first.name, first.reason, first.carries, first.adjusted
        self.workers: list[Worker | None] = [first, *[None] * (size - 1)]
        self._threads = [threading.Thread(target=self._run, args=(number,), name=f"worker {number}", daemon=True)
                         for number in range(size)]
        for thread in self._threads:
            thread.start()

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the images that the reconstructor needs from this camera.

        Raises:
            ReconstructorLost: no worker is left that could tell.

        """
        known = self._alive()
        for worker in known[:-1]:
            try:
                return worker.image_size(camera)
            except ReconstructorLost:
                continue
        return (known[-1] if known else self._worker(0)).image_size(camera)

    def submit(self, request: Request, urgent: bool = False) -> Future[Answer]:
        """Return the future answer to a request; an `urgent` one is answered before all that wait.

        The future has an error only if no worker can answer the request. If it is canceled before a worker begins with
        it, it is not answered.
        """
        future: Future[Answer] = Future()
        self._entries.put((0 if urgent else 1, next(self._numbers), request, future))
        return future

    def close(self) -> None:
        """End the workers; requests that wait are canceled."""
        self._closed.set()
        while True:
            try:
                self._entries.get_nowait()[3].cancel()
            except queue.Empty:
                break
        for _ in self._threads:
            self._entries.put((2, next(self._numbers), None, Future()))
        for worker in self._alive():
            worker.cancel()
        for thread in self._threads:
            thread.join()
        for worker in self._alive():
            worker.close()

    def _alive(self) -> list[Worker]:
        with self._lock:
            return [worker for worker in self.workers if worker is not None]

    def _run(self, number: int) -> None:
        """Answer requests by the worker of this number until the pool is closed."""
        while True:
            _, _, request, future = self._entries.get()
            if request is None:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = self._answer(number, request)
            except Exception as error:
                future.set_exception(error)
            else:
                with self._lock:
                    self.answered += 1
                future.set_result(result)

    def _answer(self, number: int, request: Request) -> Answer:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return self._worker(number).answer(request)
            except ReconstructorLost as error:
                with self._lock:
                    self.workers[number] = None
                    self.retries += 1
                if self._closed.is_set() or attempt == MAX_ATTEMPTS:
                    raise
                _LOG.warning("worker %d has died (%s); window %d is solved again", number, error, request.window.id)
        raise AssertionError("unreachable")

    def _worker(self, number: int) -> Worker:
        """Return the worker of a number, started if there is none."""
        with self._lock:
            worker = self.workers[number]
        if worker is None:
            worker = self._start()
            with self._lock:
                self.workers[number] = worker
            if self._closed.is_set():
                worker.cancel()
        return worker
