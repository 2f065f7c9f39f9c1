"""Ctrl-C while an executable still imports what it needs: one line, as later."""

import os
import signal
import subprocess
import sys
from functools import partial

import pytest
from paths import ROOT

NAMES = ("replay", "evaluate", "export", "merge", "benchmark", "reconstruct", "check", "bag_player", "view",
         "reconstruction_server", "vggt_ros")
INTERRUPTED = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException as error:  # as C extensions do
    raise ImportError("initialization failed") from error
"""


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_import_is_one_line(name, tmp_path):
    """They import NumPy, or rclpy, which is imported before it; here that interrupts the process."""
    for module in ("numpy", "rclpy"):
        (tmp_path / f"{module}.py").write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, str(ROOT / "dev" / "executable.py"), name, *(["replay"] if name == "vggt_ros" else [])]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell has its background processes ignore it
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False,
                          preexec_fn=heard)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{name}: interrupted\n")
