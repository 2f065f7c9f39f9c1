"""Memory of the network: the model compared with actual allocations, and windows that do not fit."""

import logging
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT, SUPPORT

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

from tiny_vggt import CPU, TINY
from torch.nn.attention import SDPBackend, sdpa_kernel

from vggt_ros.config import Config
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.vggt.checkpoints import rule
from vggt_ros.reconstruction.vggt.comparison.parity import pseudo_random_network
from vggt_ros.reconstruction.vggt.device_errors import DeviceUnsuitable
from vggt_ros.reconstruction.vggt.model.sizes import SMALL
from vggt_ros.reconstruction.vggt.reconstructor import Vggt
from vggt_ros.reconstruction.vggt.runtime import memory
from vggt_ros.reconstruction.vggt.runtime.inference import Inference
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.windows.keyframe import Keyframe, Window

LOOSE = {"alignment.max_rotation": 45.0, "alignment.max_translation": 1.0, "alignment.max_scale": 1.0}
"""With pseudo-random weights the output is not geometry: parts of a window are consistent only roughly."""


def keyframes(frames, height, width, first=0):
    images = (255 * rule.images(first + frames, height, width)).astype(np.uint8).transpose(0, 2, 3, 1)
    k = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], np.float64)
    return tuple(Keyframe(i, i, np.ascontiguousarray(images[i]), k) for i in range(first, first + frames))


def peak_allocated(function):
    """Return the peak bytes allocated by torch in addition to those before, measured by its profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = sorted(((e.start_ns(), e.nbytes()) for e in profile.profiler.kineto_results.events()
                     if e.name() == "[memory]"), key=lambda event: event[0])
    return int(np.cumsum([size for _, size in events]).max())


@pytest.mark.parametrize(("sizes", "frames", "height", "width", "outputs"), [
    (SMALL, 2, 98, 126, "depth"), (SMALL, 8, 98, 126, "depth"), (SMALL, 2, 196, 266, "depth"),
    (SMALL, 5, 98, 126, "depth,points"), (TINY, 16, 98, 126, "depth"), (TINY, 3, 280, 392, "depth"),
    (SMALL, 2, 140, 154, "depth,tracks"), pytest.param(TINY, 12, 196, 280, "depth,tracks", marks=pytest.mark.slow),
    (TINY, 4, 196, 266, "depth,points,tracks")])
def test_the_memory_model_matches_the_allocations(sizes, frames, height, width, outputs):
    """Never less, else a window that fits by the model would not fit; and at most 1.35 times as much."""
    run = Inference(Config().replace({"vggt.outputs": outputs}).of(VggtConfig), CPU)
    run.set_network(pseudo_random_network(sizes, 0))
    window = keyframes(frames, height, width)
    run.run(window[:2])  # computes the cached tables
    run.clear_cache()
    measured = peak_allocated(lambda: run.run(window))
    model = memory.activation_bytes(sizes, frames, height, width, run.mode)
    assert measured < model < 1.35 * measured, model / measured


def test_the_memory_model_knows_the_scores_of_the_plain_attention_kernel():
    run = Inference(Config().of(VggtConfig), CPU)
    window = keyframes(8, 196, 266)
    with sdpa_kernel(SDPBackend.MATH):
        run.set_network(pseudo_random_network(TINY, 0))
        run.run(window[:2])
        run.clear_cache()
        measured = peak_allocated(lambda: run.run(window))
    model = memory.activation_bytes(TINY, 8, 196, 266, run.mode)
    assert run.mode.plain_attention
    assert measured < model < 1.35 * measured, model / measured


@cache
def small():
    network = pseudo_random_network(SMALL, 0)
    rule.agree_on_one_camera(dict(network.named_parameters()), 126, 98)
    return network


def vggt(**changes):
    made = Vggt(Config().replace({"vggt.device": "cpu", "windows.size": 8, "windows.overlap": 3, **LOOSE, **changes}))
    made.set_network(small())
    return made


def budget(frames, height=98, width=126):
    """Return the value of `vggt.memory` that suffices for so many frames."""
    return 1e-9 * (sum(p.nbytes for p in vggt().inference.network.parameters())
                   + memory.activation_bytes(SMALL, frames, height, width, memory.Mode()) + 1e4)


def test_a_window_beyond_the_budget_is_solved_in_two_parts(caplog):
    """Decided by the memory model beforehand; the parts share three keyframes, whose tokens are reused.

    The depth of each part is that of the network for this part alone.
    """
    made = vggt(**{"vggt.memory": budget(6)})
    window = Window(0, keyframes(8, 98, 126))
    with caplog.at_level(logging.WARNING, "vggt_ros"):
        geometry = made.reconstruct(window)
    assert geometry.keyframe_ids == window.ids
    assert geometry.report["parts"] == 2 and geometry.report["reused_tokens"] == 3
    assert made.limit.most == 6 and "windows of more than 6 images are split" in caplog.text
    assert "more than 6 images" in made.status_values["split"]
    alone = vggt().reconstruct(Window(0, window.keyframes[:6]))
    np.testing.assert_array_equal(geometry.depth[:6], alone.depth)
    other = vggt().reconstruct(Window(0, window.keyframes[3:]))
    ratio = geometry.depth[6:] / other.depth[3:]
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-5)
    assert made.reconstruct(Window(1, keyframes(5, 98, 126, first=5))).report["parts"] == 1


def test_two_images_that_do_not_fit_are_refused():
    with pytest.raises(ReconstructionRefused, match=r"2 images of 126x98 need about .* lower vggt\.width"):
        vggt(**{"vggt.memory": budget(2) - 1e-4}).reconstruct(Window(0, keyframes(8, 98, 126)))


def test_the_error_of_too_little_memory_to_load_names_the_need(tmp_path):
    SMALL.save(tmp_path / "config.json")
    safetensors.save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    small = Vggt(Config().replace({"vggt.device": "cpu", "vggt.weights": str(tmp_path), "vggt.memory": 0.1}))
    needed = memory.window_bytes(SMALL, 8, 392, 518, torch.float32, memory.Mode()) / 1e9
    with pytest.raises(DeviceUnsuitable, match=f"a window of 8 about {needed:.1f} GB; 0.1 GB are free"):
        small.load()


LIMITED = """
import logging, resource, sys
sys.path[:0] = sys.argv[1:]
logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
import torch
from test_vggt_memory import CPU, LOOSE, SMALL, Vggt, Config, Window, keyframes, memory, small
torch.set_num_threads(1)
vggt = Vggt(Config().replace({"vggt.device": "cpu", "windows.size": 8, "windows.overlap": 3, **LOOSE}))
vggt.set_network(small())
whole, later = (Window(i, keyframes(8, 196, 266, first=5 * i)) for i in range(2))
vggt.reconstruct(Window(0, whole.keyframes[:2]))
vggt.inference.clear_cache()
pages = int(open("/proc/self/statm").read().split()[0])
room = sum(memory.activation_bytes(SMALL, frames, 196, 266, memory.Mode()) for frames in (4, 8)) // 2
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room,) * 2)
for window in (whole, later):
    geometry = vggt.reconstruct(window)
    print("SOLVED", geometry.keyframe_ids == window.ids, int(geometry.report["parts"]), vggt.limit.most)
"""


def test_windows_are_split_after_out_of_memory_and_the_process_continues():
    """The system refuses allocations; the reduced window size is kept for the next window."""
    here = Path(__file__).parent
    # The limit is on address space: one arena per thread would reserve more of it than the windows need.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", LIMITED, str(ROOT), str(here), str(SUPPORT)], capture_output=True,
                          text=True, timeout=300, env=environment)
    solved = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("SOLVED")]
    assert len(solved) == 2, done.stdout + done.stderr
    assert all(whole == "True" and int(parts) >= 2 and int(most) < 8 for whole, parts, most in solved), done.stdout
    assert 0 < done.stdout.rindex("memory ran out on cpu") < done.stdout.index("SOLVED"), "the window size is not kept"
