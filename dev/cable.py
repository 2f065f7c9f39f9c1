#!/usr/bin/env python3
"""Two network namespaces, as two machines, joined by a cable that delays, loses and limits packets; needs root.

sudo dev/cable.py --delay 20 --loss 5 --rate 20, then `sudo ip netns exec vggt_a COMMAND` and the same with vggt_b, each
below `unshare --mount` with a tmpfs of its own on /dev/shm: two machines share no memory. Ctrl-C prints what was sent.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import queue
import random
import signal
import struct
import subprocess
import threading
import time

NAMES, ADDRESSES = ("vggt_a", "vggt_b"), ("10.77.0.1", "10.77.0.2")
_TUNSETIFF, _TAP, _NO_HEADER = 0x400454CA, 0x0002, 0x1000
_QUEUE = 0.5
"""Longest time that a packet waits for those before it, seconds; it is dropped if it would have to wait longer."""


def ip(arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments.split()], check=True)


def end_of_cable(namespace: str, address: str) -> int:
    """Create a namespace with one end of the cable; return the file of its Ethernet frames."""
    ip(f"netns add {namespace}")
    libc = ctypes.CDLL(None, use_errno=True)
    here, there = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
    if libc.setns(there, 0):
        raise OSError(ctypes.get_errno(), "setns")
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", b"cable", _TAP | _NO_HEADER))
    libc.setns(here, 0)
    for command in ("link set lo up", f"addr add {address}/24 dev cable", "link set cable txqueuelen 2000 up",
                    "route add 239.0.0.0/8 dev cable"):
        ip(f"-n {namespace} {command}")
    return end


class Direction:
    """Carries frames from one end to the other, and counts bytes and losses."""

    def __init__(self, source: int, target: int, delay: float, loss: float, rate: float) -> None:
        """Begin; `delay` in seconds, `loss` a share, `rate` in bits per second or 0."""
        self.bytes = self.frames = self.lost = 0
        self._source, self._target, self._delay, self._loss, self._rate = source, target, delay, loss, rate
        self._waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        for work in (self._receive, self._send):
            threading.Thread(target=work, daemon=True).start()

    def _receive(self) -> None:
        chance, free = random.Random(0), 0.0
        while frame := os.read(self._source, 65536):
            now = time.monotonic()
            self.bytes, self.frames, free = self.bytes + len(frame), self.frames + 1, max(free, now)
            if free - now > _QUEUE or chance.random() < self._loss:
                self.lost += 1
                continue
            free += 8 * len(frame) / self._rate if self._rate else 0.0
            self._waiting.put((free + self._delay, frame))

    def _send(self) -> None:
        while True:
            when, frame = self._waiting.get()
            time.sleep(max(0.0, when - time.monotonic()))
            with contextlib.suppress(OSError):
                os.write(self._target, frame)


def main() -> None:
    """Lay the cable until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, unit in (("delay", "ms in each direction"), ("loss", "percent of the packets"), ("rate", "Mbit/s")):
        parser.add_argument(f"--{name}", type=float, default=0.0, help=f"{unit} (default 0: none)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ends = [end_of_cable(*end) for end in zip(NAMES, ADDRESSES, strict=True)]
        settings = options.delay / 1e3, options.loss / 100, options.rate * 1e6
        directions = {f"{NAMES[a]} -> {NAMES[b]}": Direction(ends[a], ends[b], *settings) for a, b in ((0, 1), (1, 0))}
        print("the cable is laid", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        for name, one in directions.items():
            print(f"{name}: {one.bytes / 1e6:.2f} MB in {one.frames} packets, of which {one.lost} were lost")
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False)


if __name__ == "__main__":
    main()
