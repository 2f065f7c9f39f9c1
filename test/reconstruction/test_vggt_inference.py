"""Inference: no synchronization, cached position tables, and a compiler that may fail."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT, SUPPORT

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

from tiny_vggt import CPU, TINY
from torch.utils._python_dispatch import TorchDispatchMode

from vggt_ros.config import Config
from vggt_ros.reconstruction.vggt import rule
from vggt_ros.reconstruction.vggt.inference import Inference
from vggt_ros.reconstruction.vggt.parity import pseudo_random_network
from vggt_ros.windows.keyframe import Keyframe

SYNCHRONIZING = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero", "aten::equal",
                 "aten::masked_select", "aten::_unique2"}
"""Operations that make the host wait for a GPU, because a value or a shape depends on the result."""
TABLE_OPERATIONS = {"aten::sin", "aten::cos", "aten::linspace", "aten::meshgrid",
                    "aten::_upsample_bicubic2d_aa", "aten::pow"}


class RecordOperations(TorchDispatchMode):
    """Records the names of all operations."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(function._schema.name)
        return function(*args, **(kwargs or {}))


def keyframes(frames=3, height=56, width=70):
    images = (255 * rule.images(frames, height, width)).astype(np.uint8).transpose(0, 2, 3, 1)
    return tuple(Keyframe(i, i, np.ascontiguousarray(images[i]), np.eye(3)) for i in range(frames))


def inference(**settings):
    run = Inference(Config().replace({f"vggt.{name}": value for name, value in settings.items()}).vggt, CPU)
    run.set_network(pseudo_random_network(TINY, 0))
    return run


@pytest.mark.parametrize("settings", [{}, {"edge_jump": 0.5, "far": 3.0, "min_raw_confidence": 1.1},
                                      {"outputs": "depth,points"}])
def test_no_operation_synchronizes_and_tables_are_cached(settings):
    """In a second window of the same size no operation waits for the device, and none computes a table."""
    run = inference(**settings)
    with RecordOperations() as first:
        run.run(keyframes())
    run.clear_cache()
    with RecordOperations() as second:
        run.run(keyframes())
    assert "aten::addmm" in second.seen or "aten::linear" in second.seen  # else nothing is recorded
    assert TABLE_OPERATIONS & first.seen
    assert not (SYNCHRONIZING | TABLE_OPERATIONS) & second.seen


def test_the_recorder_detects_synchronization():
    with RecordOperations() as recorder:
        (torch.rand(3) > 0.5).any().item()
    assert SYNCHRONIZING & recorder.seen


COMPILED = """
import sys
sys.path[:0] = sys.argv[1:]
import numpy as np
from test_vggt_inference import inference, keyframes
plain, compiled = inference(), inference(compile="true")
compiled.warm_up(70, 56, 3, 1)
print("COMPILED", compiled.blocks.state)
a, b = plain.run(keyframes())[0], compiled.run(keyframes())[0]
print("DIFFERENCE", max(float(np.nanmax(np.abs(x / y - 1))) for x, y in ((a.depth, b.depth), (a.pose_enc, b.pose_enc))))
"""


def compiled(**environment):
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", COMPILED, str(ROOT), str(here), str(SUPPORT)], text=True, timeout=500,
                          capture_output=True, check=False, env={**os.environ, **environment})
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("COMPILED", "DIFF")))
    assert len(lines) == 2, done.stderr[-3000:]
    return lines["COMPILED"], float(lines["DIFFERENCE"]), done.stderr


def test_without_a_compiler_the_network_runs_uncompiled_and_the_reason_is_logged(tmp_path):
    text, difference, log = compiled(CXX=str(tmp_path / "no_compiler"), TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert text.startswith("no, because of ") and "ompiler" in text
    assert "the network runs uncompiled, because" in log
    assert difference == 0


@pytest.mark.slow
def test_the_compiled_network_computes_the_same(tmp_path):
    text, difference, _ = compiled(TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert text == "yes"
    assert difference < 1e-3
