"""A pool of workers: requests wait in one queue, and one whose worker has died is sent again."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import ReconstructorLost
from vggt_ros.workers.requests import Answer, Request
from vggt_ros.workers.worker import Worker

_LOG = logging.getLogger(__name__)
MAX_ATTEMPTS = 4
"""How often a request is sent: one that ends its worker each time would end all of them."""
_END_TIMEOUT = 10.0
"""Longest wait for a worker that is just being started when the pool is closed, seconds."""


@dataclass(order=True)
class _Entry:
    """A request in the queue, or None to end a thread; `attempts`: how many workers were given it."""

    urgency: int
    number: int
    request: Request | None = field(compare=False)
    future: Future[Answer] = field(compare=False)
    attempts: int = field(default=0, compare=False)


class Pool:
    """Answers requests on several workers; the results do not depend on how many there are.

    Attributes:
        name, reason, carries, adjusted: as of the workers.
        size: number of workers.
        retries: how many requests were sent again because their worker had died.
        answered: how many requests were answered.

    """

    def __init__(self, start: Callable[[], Worker], size: int) -> None:
        """Start the first worker, and the others when they are needed; `start` is called again for one that has died.

        It may take as long as it likes, such as until a cluster has room: the others go on. Raises as `start` does.
        """
        self._start = start
        self.size, self.retries, self.answered = size, 0, 0
        self._closed, self._lock = threading.Event(), threading.Lock()
        self._entries: queue.PriorityQueue[_Entry] = queue.PriorityQueue()
        self._numbers = itertools.count()
        first = start()
        self.name, self.reason, self.carries, self.adjusted = first.name, first.reason, first.carries, first.adjusted
        self.workers: list[Worker | None] = [first, *[None] * (size - 1)]
        self._starting = [threading.Lock() for _ in range(size)]
        self._given_up: set[int] = set()
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
        self._entries.put(_Entry(0 if urgent else 1, next(self._numbers), request, future))
        return future

    def close(self) -> None:
        """End the workers; requests that wait are canceled."""
        self._closed.set()
        while True:
            try:
                self._entries.get_nowait().future.cancel()
            except queue.Empty:
                break
        for _ in self._threads:
            self._entries.put(_Entry(2, next(self._numbers), None, Future()))
        for worker in self._alive():
            worker.cancel()
        for thread in self._threads:
            thread.join(_END_TIMEOUT)
        for worker in self._alive():
            worker.close()

    def _alive(self) -> list[Worker]:
        with self._lock:
            return [worker for worker in self.workers if worker is not None]

    def _run(self, number: int) -> None:
        """Answer requests by the worker of this number until the pool is closed, or no such worker can be started."""
        while (entry := self._entries.get()).request is not None:
            if self.workers[number] is None:
                self._entries.put(entry)  # for the others, who need not wait
                try:
                    self._worker(number)
                except Exception as error:
                    if self._goes_on_without(number, error):
                        return
                    if (entry := self._entries.get()).request is None:
                        return
                    if entry.future.running() or entry.future.set_running_or_notify_cancel():
                        entry.future.set_exception(error)
            elif entry.future.running() or entry.future.set_running_or_notify_cancel():
                self._answer(number, entry)

    def _answer(self, number: int, entry: _Entry) -> None:
        worker = self.workers[number]
        assert worker is not None and entry.request is not None
        entry.attempts += 1
        try:
            result = worker.answer(entry.request)
        except ReconstructorLost as error:
            with self._lock:
                self.workers[number] = None
                self.retries += 1
            if self._closed.is_set() or entry.attempts == MAX_ATTEMPTS:
                entry.future.set_exception(error)
                return
            _LOG.warning("worker %d has died (%s); window %d is solved again", number, error, entry.request.window.id)
            self._entries.put(entry)
        except Exception as error:
            entry.future.set_exception(error)
        else:
            with self._lock:
                self.answered += 1
            entry.future.set_result(result)

    def _goes_on_without(self, number: int, error: Exception) -> bool:
        """Return whether others are left when the worker of this number cannot be started."""
        with self._lock:
            if len(self._given_up) + 1 == self.size:
                return False
            self._given_up.add(number)
        _LOG.warning("worker %d cannot be started, the others go on without it: %s", number, error)
        return True

    def _worker(self, number: int) -> Worker:
        """Return the worker of a number, started if there is none; raises as `start` does."""
        with self._starting[number]:
            worker = self.workers[number]
            if worker is None:
                worker = self._started()
                with self._lock:
                    self.workers[number] = worker
                if self._closed.is_set():
                    worker.cancel()
        return worker

    def _started(self) -> Worker:
        """Return a new worker, at the last of a few attempts if it dies meanwhile."""
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return self._start()
            except ReconstructorLost as error:
                _LOG.warning("a worker has died while it was started: %s", error)
        return self._start()
