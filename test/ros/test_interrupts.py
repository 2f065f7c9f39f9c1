"""The end of a process after SIGINT: once, and within a time, whatever hangs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT

from vggt_ros.process_info import children

PROGRAM = """
import atexit, multiprocessing, os, signal, sys, threading, time
from vggt_ros.ros.common.interrupts import bounded_end, single_interrupt
what = sys.argv[1]
with single_interrupt(), bounded_end(2.0):
    try:
        if what == "the end of the interpreter":
            atexit.register(time.sleep, 60)
        if what == "a thread that is waited for":
            threading.Thread(target=time.sleep, args=(60,)).start()
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,), daemon=True)
        if what == "the cleanup":
            child.start()
            os.kill(child.pid, signal.SIGSTOP)
        print("ready", child.pid, flush=True)
        time.sleep(60)
    finally:
        if what == "the cleanup":
            time.sleep(60)
print("ended", flush=True)
"""


@pytest.mark.parametrize(("what", "code"), [
    ("nothing", 0), ("the cleanup", 1), ("the end of the interpreter", 1), ("a thread that is waited for", 1)])
def test_the_process_ends_in_time_whatever_hangs(what, code):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    ready, child = process.stdout.readline().split()
    assert ready == "ready"
    began = time.monotonic()
    for _ in range(3):  # those of terminal and launch
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    said, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert time.monotonic() - began < 20.0  # of 60
    assert ("ended" in said) == (what != "the cleanup")
    if child != "None":
        end = time.monotonic() + 20.0
        while Path("/proc", child).exists() and time.monotonic() < end:
            time.sleep(0.1)
        assert not Path("/proc", child).exists(), "the stopped child outlives it"
    if what == "a thread that is waited for":
        assert "most recent call first" in errors, "it is not said where it hangs"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_start_ends_the_node_without_a_traceback(number):
    """While modules are imported, such as when launch ends at once since the bag is missing."""
    process = subprocess.Popen([sys.executable, "-m", "vggt_ros.ros.node.start"], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    end = time.monotonic() + 60.0
    while not (spare := children(process.pid)) and time.monotonic() < end:
        time.sleep(0.005)
    assert spare, "the process of the reconstructor starts before the imports"
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode in (0, -number) and not said
    while (left := any(Path("/proc", str(pid)).exists() for pid in spare)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left
