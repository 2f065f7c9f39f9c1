"""Compiled blocks: which shapes are compiled, how often, and what happens if the compiler fails or is wrong."""

import functools
import logging
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

from test_vggt_inference import inference, keyframes
from tiny_vggt import CPU

from vggt_ros.reconstruction.vggt.runtime import compilation
from vggt_ros.reconstruction.vggt.runtime.compilation import CompiledBlocks


@pytest.fixture(name="graphs")
def _graphs(monkeypatch):
    """Replace the compiler behind torch.compile by one that runs the graph as it is; the graphs that it was given."""
    compiled = []

    def backend(graph, inputs):
        compiled.append([tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)])
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    yield compiled
    torch.compiler.reset()


def test_all_blocks_of_a_stage_are_compiled_once_for_the_shape_of_the_camera(graphs):
    """Three graphs for 10 blocks, the encoder included, and two of any shape for q and k; none for other windows."""
    parts, run = [], inference(compile="true")
    run.warm_up(70, 56, 4, 1, compile_blocks=False)
    assert not graphs
    run.warm_up(70, 56, 4, 1, progress=parts.append)
    assert run.blocks.state == "yes, for 4 images of 70x56"
    assert parts == [f"compiling the network, part {i} of 3" for i in (1, 2, 3)] + [
        "compiling the network, for other windows"]
    assert len(graphs) == 5
    plain = inference()
    for frames, height, width in ((4, 56, 70), (2, 56, 70), (5, 56, 70), (4, 70, 84)):
        ours, theirs = run.run(keyframes(frames, height, width))[0], plain.run(keyframes(frames, height, width))[0]
        np.testing.assert_allclose(ours.depth, theirs.depth, rtol=1e-4)
        run.clear_cache(), plain.clear_cache()
    assert len(graphs) == 5, graphs[5:]
    run.warm_up(84, 70, 3, 1)  # another camera
    assert run.blocks.state == "yes, for 3 images of 84x70"


def test_compiling_can_be_interrupted_and_begun_again(graphs):
    run = inference(compile="true")

    def stop(text):
        if "part 2" in text:
            raise RuntimeError("closed while loading")

    with pytest.raises(RuntimeError, match="closed while loading"):
        run.warm_up(70, 56, 3, 1, progress=stop)
    run.run(keyframes())
    assert len(graphs) == 1 and run.blocks.state == "no"
    run.warm_up(70, 56, 3, 1)
    assert run.blocks.state.startswith("yes")


def test_a_compiler_that_computes_something_else_is_not_used(monkeypatch, caplog):
    def backend(graph, inputs):
        return lambda *values: [2 * value for value in graph.forward(*values)]

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    run = inference(compile="true")
    with caplog.at_level(logging.WARNING, "vggt_ros"):
        run.warm_up(70, 56, 3, 1)
    assert "a depth that differs by" in run.blocks.state and "runs uncompiled" in caplog.text
    assert np.array_equal(run.run(keyframes())[0].depth, inference().run(keyframes())[0].depth)
    torch.compiler.reset()


def test_out_of_memory_in_a_compiled_block_is_not_a_failure_of_the_compiler():
    """It goes to who splits the window."""
    blocks = CompiledBlocks("true", CPU)

    def fail(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    blocks._run = fail
    with pytest.raises(torch.cuda.OutOfMemoryError), blocks.recording(lambda text: None):
        blocks(torch.nn.Identity(), torch.zeros(1, 2, 3))
    assert blocks.enabled


@pytest.mark.parametrize(("missing", "words"), [("triton", "triton is not installed"), ("cc", "no C compiler"),
                                                ("Python.h", "Python.h is missing"), ("nothing", "")])
def test_auto_compiles_on_a_gpu_where_a_compiler_is_there(monkeypatch, missing, words):
    """A GPU is staged. On a CPU `auto` never compiles."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 7))
    monkeypatch.setattr(compilation, "find_spec", lambda name: None if missing == "triton" else name)
    monkeypatch.setattr(compilation.shutil, "which", lambda name: None if missing == "cc" else f"/usr/bin/{name}")
    monkeypatch.setattr(Path, "exists", lambda path: path.name != "Python.h" or missing != "Python.h")
    blocks = CompiledBlocks("auto", torch.device("cuda"))
    assert blocks.enabled is (missing == "nothing") and words in blocks.state
    assert not CompiledBlocks("auto", CPU).enabled
    assert not CompiledBlocks("false", torch.device("cuda")).enabled


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
    assert text == "yes, for 3 images of 70x56"
    assert difference < 1e-3
