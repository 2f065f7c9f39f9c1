"""`check`: each finding has the right level where its fault is staged, and the command says what it could not check."""

import json
import subprocess
import sys

import numpy as np
import pytest
from paths import ROOT

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

from staged_gpu import stage_gpu
from tiny_vggt import tiny_config, tiny_state, write_weights

from vggt_ros.benchmarks.check import machine as check
from vggt_ros.benchmarks.check import vggt as check_vggt
from vggt_ros.benchmarks.check import window as check_window
from vggt_ros.benchmarks.check.machine import GREEN, RED, YELLOW
from vggt_ros.benchmarks.check.vggt import VggtCheck
from vggt_ros.cli.check import main
from vggt_ros.config import Config
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.vggt.checkpoints.weight_files import WeightsError
from vggt_ros.reconstruction.vggt.comparison import parity
from vggt_ros.reconstruction.vggt.model.sizes import PUBLISHED
from vggt_ros.reconstruction.vggt.runtime import memory
from vggt_ros.synthetic import OracleNoise, SceneReconstructor, room


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder)
    return folder


@pytest.fixture(name="quick_window")
def _quick_window(monkeypatch):
    """Render few pixels, and leave multiview out."""
    whole = check_window._rendered

    def rendered():
        camera, rectified, images, poses = whole(160, 120)
        return camera, rectified, images, poses

    monkeypatch.setattr(check_window, "_rendered", rendered)
    monkeypatch.setattr(check_window, "Multiview", lambda config: None)


def test_a_machine_without_gpu_and_weights(tmp_path, capsys, monkeypatch, quick_window):
    """Nothing is red: it says what cannot be checked, with exit status 0."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = ["--set", f"vggt.weights={tmp_path / 'none.safetensors'}", "--set", "vggt.device=cpu",
                 "--json", str(tmp_path / "check.json")]
    assert main(arguments) == 0
    said = json.loads((tmp_path / "check.json").read_text())
    level = {one["name"]: one["level"] for one in said["findings"]}
    assert level["parity"] == level["attention kernel"] == GREEN
    assert level["GPU"] == level["weights"] == level["speed"] == level["window"] == said["level"] == YELLOW
    assert {"GPU", "weights", "memory", "speed", "window"} <= set(said["not_checked"])
    assert not {"versions", "parity"} & set(said["not_checked"])
    assert all(one["cure"] for one in said["findings"] if one["level"] != GREEN)
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("yellow: the worst of 9 checks")
    assert "not or only partly checked on this machine: GPU" in printed and "cure: " in printed


def test_weights_that_reconstruct_nothing_are_red(folder, capsys, quick_window):
    """Random weights load and run, and the window tells that they are not those of VGGT."""
    assert main(["--set", f"vggt.weights={folder}", "--set", "vggt.device=cpu", "--set", "vggt.width=112"]) == 1
    printed = capsys.readouterr().out
    words = [line.split() for line in printed.splitlines()]
    lines = {word[1]: word[0] for word in words if word[0] in (GREEN, RED, YELLOW)}
    assert lines["weights"] == lines["parity"] == lines["speed"] == GREEN
    assert lines["window"] == RED and "cure: " in printed


def test_wrong_arguments_are_named(tmp_path, capsys):
    assert main(["--set", "vggt.width=1"]) == 1
    assert "check: vggt.width: 1 is outside" in capsys.readouterr().err


def test_the_published_outputs_are_those_of_the_reference_file():
    with np.load(ROOT / "test" / "data" / "small_seed0_2x98x126.npz") as data:
        assert tuple(data["meta"])[:3] == (2, 98, 126)
        np.testing.assert_allclose(check_vggt.PUBLISHED_POSES, data["pose_enc"], atol=1e-7)
        depth, stride = float(data["depth"].mean()), int(data["meta"][3])
    assert stride == 1 and depth == pytest.approx(check_vggt.PUBLISHED_DEPTH, rel=1e-6)


def levels(findings):
    return [finding.level for finding in findings]


def test_a_device_that_computes_something_else_is_red(monkeypatch, folder):
    monkeypatch.setattr(check_vggt, "pseudo_random_network", lambda sizes, seed: parity.pseudo_random_network(sizes, 1))
    (found,) = VggtCheck(tiny_config(folder)).parity()
    assert found.level == RED and found.figures["float32"][0] > 0.01 and "vggt.dtype" in found.cure


def test_every_type_is_checked(folder):
    (found,) = VggtCheck(tiny_config(folder, dtype="bfloat16")).parity()
    assert found.level == GREEN and len(found.figures) >= 1


def test_damaged_weights_are_red(tmp_path, folder, monkeypatch):
    state = dict(tiny_state())
    state["aggregator.camera_token"] = torch.full_like(state["aggregator.camera_token"], np.nan)
    write_weights(tmp_path, state)
    (found,) = VggtCheck(tiny_config(tmp_path)).weights()
    assert found.level == RED and "aggregator.camera_token" in found.text

    def differ(path):
        raise WeightsError("vggt.weights: its SHA-256 is another")

    monkeypatch.setattr(check_vggt.weight_files, "check_hash", differ)
    (found,) = VggtCheck(tiny_config(folder)).weights()
    assert found.level == RED and "SHA-256" in found.text


def test_memory_that_is_short_is_yellow_or_red(folder):
    assert levels(VggtCheck(tiny_config(folder)).memory()) == [GREEN]
    four = memory.window_bytes(PUBLISHED, 4, 392, 518, torch.float32, memory.Mode())
    (some,) = VggtCheck(tiny_config(folder, memory=four / 1e9)).memory()
    assert some.level == YELLOW and some.figures["images_that_fit"] == 4
    (none,) = VggtCheck(tiny_config(folder, memory=1.0)).memory()
    assert none.level == RED and none.figures["images_that_fit"] == 0 and "windows.size" in none.cure


def test_a_gpu_that_torch_does_not_support_is_red(monkeypatch, folder):
    stage_gpu(monkeypatch, capability=(6, 1), built_for=("sm_80", "sm_90"))
    found = VggtCheck(Config().replace({"vggt.weights": str(folder)}))
    (gpu,) = found.gpu()
    assert gpu.level == RED and "compute capability 6.1" in gpu.text and "install a build" in gpu.cure
    stage_gpu(monkeypatch)
    monkeypatch.setattr(VggtCheck, "_compute", lambda self: (_ for _ in ()).throw(
        RuntimeError("CUDA error: no kernel image is available for execution on the device")))
    (gpu,) = found.gpu()
    assert gpu.level == RED and "computing on it failed" in gpu.text and "another build" not in gpu.cure
    monkeypatch.setattr(VggtCheck, "_compute", lambda self: None)
    assert levels(found.gpu()) == [GREEN]


def test_the_plain_attention_kernel_is_red_on_a_gpu(monkeypatch, folder):
    stage_gpu(monkeypatch)
    monkeypatch.setattr(check_vggt, "attention_kernel", lambda *_: "plain")
    (found,) = VggtCheck(Config().replace({"vggt.weights": str(folder)})).attention()
    assert found.level == RED and "GB of scores" in found.text and "vggt.dtype" in found.cure


def test_a_missing_compiler_is_yellow_on_a_gpu(monkeypatch, folder):
    stage_gpu(monkeypatch)
    monkeypatch.setattr(check_vggt, "compiler_problem", lambda device: "triton is not installed")
    (found,) = VggtCheck(Config().replace({"vggt.weights": str(folder)})).compiler()
    assert found.level == YELLOW and "triton" in found.text and "vggt.compile" in found.cure


def test_old_and_missing_packages_are_red(monkeypatch):
    real = check._version
    monkeypatch.setattr(check, "_version", lambda name: {"gtsam": "", "numpy": "1.21.5"}.get(name, real(name)))
    (found,) = check.check_versions()
    assert found.level == RED and "numpy 1.21.5, needed is 1.26" in found.text and "gtsam is missing" in found.text
    assert found.cure == "pip install -U numpy gtsam"


def test_a_check_that_fails_does_not_stop_the_others():
    def fails():
        raise RuntimeError("\nsomething of torch\nwith a trace")
        yield

    (found,) = check.guarded("memory", fails)
    assert (found.name, found.level) == ("memory", RED) and "RuntimeError: something of torch" in found.text


def window_of(noise):
    """Return the finding for a network that solves the rendered window with errors."""
    _, _, _, poses = check_window._rendered()
    oracle = SceneReconstructor(room(texel=0.008), [i * 10**8 for i in range(8)], poses, noise)
    oracle.image_size = lambda camera: (camera.width, camera.height)
    (found,) = check_window.check_window(Config(), oracle, None)
    return found


def test_a_window_is_held_against_the_truth(quick_window):
    good = window_of(OracleNoise())
    assert good.level == GREEN and good.checked and good.figures["vggt against truth"]["rotations_deg"] < 1e-3
    assert window_of(OracleNoise(rotation=0.2)).level == RED


def test_a_refused_window_is_red_with_the_reason(quick_window):
    class Refuses:
        name = "vggt"

        def image_size(self, camera):
            return 112, 84

        def reconstruct(self, window):
            raise ReconstructionRefused("memory ran out")

    (found,) = check_window.check_window(Config(), Refuses(), None)
    assert found.level == RED and "memory ran out" in found.cure and not found.checked


def test_without_torch_multiview_alone_is_checked():
    """In another interpreter, where torch cannot be imported."""
    code = ("import sys; sys.modules['torch'] = None\n"
            "from vggt_ros.benchmarks.check import machine; real = machine._version\n"
            "machine._version = lambda name: '' if name == 'torch' else real(name)\n"
            "from vggt_ros.cli.check import main; sys.exit(main([]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "not checked, because torch must be installed for it" in done.stdout
    assert "multiview against truth" in done.stdout
