"""Chromium without a window, controlled through a pipe by the DevTools protocol."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from typing import Any

import cv2
import numpy as np


class BrowserError(RuntimeError):
    """A command failed."""


class Chromium:
    """A browser with one page; use it as a context manager."""

    def __init__(self, size=(800, 600)):
        """Start it with a page of `size`, width and height; it renders without a GPU."""
        self._profile = tempfile.mkdtemp(prefix="chromium_")
        (read_end, self._to), (self._of, write_end) = os.pipe(), os.pipe()
        command = [shutil.which("chromium"), "--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                   "--remote-debugging-pipe", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
                   "--disable-background-networking", "--no-first-run", f"--window-size={size[0]},{size[1]}",
                   f"--user-data-dir={self._profile}", "about:blank"]
        # The browser reads commands from descriptor 3 and answers on 4, which may be in use here.
        given = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (read_end, write_end)]
        shell = ["bash", "-c", f'exec "$@" 3<&{given[0]} 4>&{given[1]}', "bash"]
        self._process = subprocess.Popen([*shell, *command], pass_fds=given, stdout=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL)
        for end in (read_end, write_end, *given):
            os.close(end)
        self._buffer, self._number = b"", 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    _session: str | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        os.close(self._to)
        os.close(self._of)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, seconds: float = 60.0, **parameters: Any) -> dict[str, Any]:
        """Run a command and return its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        end = time.monotonic() + seconds
        while True:
            answer = self._message(end)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, address: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=address)

    def picture(self) -> np.ndarray:
        """Return what the page shows, RGB (H, W, 3)."""
        for attempt in range(10):
            try:
                data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
                break
            except BrowserError:  # while it goes to another page
                if attempt == 9:
                    raise
                time.sleep(1.0)
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def _message(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._of], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._of, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
