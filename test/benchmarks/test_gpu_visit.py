"""`benchmark gpu_visit`: its sections on a CPU with a tiny network, and that none of them ends the others."""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from paths import ROOT

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

from tiny_vggt import CPU, TINY, write_weights

from vggt_ros.benchmarks.gpu import visit as gpu_visit
from vggt_ros.benchmarks.gpu import visit_checks, visit_memory, visit_network, visit_speed
from vggt_ros.benchmarks.gpu.visit import SECTIONS, Visit, tables
from vggt_ros.cli.benchmark import main
from vggt_ros.reconstruction.vggt.checkpoints import rule, weights

MODULES = {"visit_checks": visit_checks, "visit_memory": visit_memory, "visit_speed": visit_speed}


@pytest.fixture(name="visit")
def _visit(tmp_path, monkeypatch):
    """Return a visit with the tiny network, whose sections run in this process."""
    monkeypatch.setattr(visit_network, "SMALL", TINY)
    return Visit(str(tmp_path), "cpu", "small", 112, 84, 4, 2, (1, 4))


def run(visit, name):
    """Return the figures of a section."""
    found = {}
    getattr(MODULES[SECTIONS[name][0]], name)(visit, found.__setitem__)
    return found


def test_the_weights_are_those_of_the_rule_and_go_through_the_loader(visit):
    made = visit_network.load_network(visit, torch.float32, ("cameras", "depth")).state_dict()
    found = run(visit, "load")
    assert found["loading as float32"]["parameters_bytes"] == found["loading as float32"]["model_bytes"]
    loaded = weights.load(visit_network.weights_file(visit), CPU).state_dict()
    assert len(loaded) > 50 and loaded.keys() == made.keys()
    for name, value in loaded.items():
        torch.testing.assert_close(value, torch.from_numpy(rule.weight(name, tuple(value.shape), 0)), rtol=0, atol=0)
        torch.testing.assert_close(value, made[name], rtol=0, atol=0)


def test_every_section_runs_on_a_cpu(visit):
    results = {name: {"state": "done", "seconds": 0.0, "figures": run(visit, name)} for name in SECTIONS}
    figures = {name: result["figures"] for name, result in results.items()}
    assert all(figures.values())
    assert figures["parity"]["bfloat16"]["depth"] < 0.05
    assert figures["parity"]["bfloat16, published mode"]["pose_enc"] < 0.05
    assert figures["window"]["windows"]["earlier_results_unchanged"] is True
    assert figures["window"]["windows"]["reused_tokens"] == 2
    assert figures["window"]["windows"]["reuse_changes_depth_by"] < 1e-5
    short = figures["out_of_memory"]["short"]
    assert short["most"] == 3 and "are available" in short["reason"]
    assert short["first"] == "2 parts" or "parts of the window are inconsistent" in short["first"]
    assert figures["kernels"]["default"]["tflop_per_s"] > 0
    latency = figures["latency"]
    assert set(latency) == {"reference", "1 images, 0 reused", "4 images, 0 reused", "4 images, 2 reused"}
    assert set(latency["4 images, 2 reused"]["parts"]) == {"encoder", "aggregator", "cameras", "dense heads",
                                                           "filter and copy"}
    assert not [row for row in figures["options"].values() if "failed" in row]
    assert figures["options"]["dtype float32"]["depth_change"] < 1e-5
    text = tables(results)
    assert f"| {figures['environment']['device']['name']} | 4 x 112x84, none shared | reference |" in text
    assert "| options | figures |" in text and "| state | done |" in text


def test_an_option_that_fails_does_not_stop_the_others(visit, monkeypatch):
    real = visit_speed.inference_of
    write_weights(Path(visit.folder))

    def fails(visit, **settings):
        if "dense_dtype" in settings:
            raise RuntimeError("CUDA error: operation not supported\nwith a trace")
        return real(visit, **settings)

    monkeypatch.setattr(visit_speed, "inference_of", fails)
    found = run(visit, "options")
    assert found["dense_dtype float16"]["failed"] == "RuntimeError: CUDA error: operation not supported"
    assert found["8 frames at a time in the dense heads"]["seconds"] > 0


def test_the_published_outputs_are_the_reference_of_the_small_network(tmp_path):
    """Real reference outputs of the published implementation, against the weights that `load` writes."""
    visit = Visit(str(tmp_path), "cpu", "small", 126, 98, 4, 2, (1,),
                  str(ROOT / "test" / "data" / "small_seed0_2x98x126.npz"))
    visit_network.sizes_of(visit).save(tmp_path / "config.json")
    visit_checks.write_weights(visit, visit_network.weights_file(visit))
    errors = run(visit, "parity")["float32, against the reference"]
    assert errors.keys() >= {"pose_enc", "depth", "world_points"} and max(errors.values()) < 1e-5


# Sections that end in various ways, in processes of their own.

def staged(monkeypatch, section, seconds=60.0):
    """Return what becomes of a section."""
    monkeypatch.setitem(sys.modules, "vggt_ros.benchmarks.gpu.visit_staged", SimpleNamespace(staged=section))
    monkeypatch.setitem(SECTIONS, "staged", ("visit_staged", 60.0))
    visit = Visit("", "cpu", "small", 14, 14, 2, 1, (1,))
    return gpu_visit._isolated(multiprocessing.get_context("fork"), visit, "staged", seconds)


def test_what_a_section_has_told_survives_its_end(monkeypatch, capfd):
    def fails(visit, report):
        report("first", {"seconds": 1.0})
        raise RuntimeError("\nCUDA error: an illegal memory access was encountered\nhints")

    def ends(visit, report):
        report("first", {"seconds": 1.0})
        time.sleep(0.2)
        os._exit(3)

    def hangs(visit, report):
        report("first", {"seconds": 1.0})
        time.sleep(60.0)

    def completes(visit, report):
        report("first", {"seconds": 1.0})

    for section, state in ((fails, "failed: RuntimeError: CUDA error: an illegal memory access"),
                           (ends, "failed: its process ended with exit status 3"), (hangs, "ended after 5 s"),
                           (completes, "done")):
        result = staged(monkeypatch, section, 5.0 if section is hangs else 60.0)
        assert result["state"].startswith(state), section
        assert result["figures"] == {"first": {"seconds": 1.0}}
    assert "test_gpu_visit.py" in staged(monkeypatch, fails)["state"]


def test_the_command(tmp_path, capsys):
    """Sections in their processes; where no time is left they are left out, and the exit status says so."""
    arguments = ["gpu_visit", "--network", "small", "--device", "cpu", "--json", str(tmp_path / "visit.json")]
    assert main([*arguments, "--sections", "environment"]) == 0
    said = json.loads((tmp_path / "visit.json").read_text())
    assert said["not_done"] == [] and said["sections"]["environment"]["figures"]["device"]["torch"]
    assert main([*arguments, "--sections", "kernels", "--budget", "0"]) == 1
    said = json.loads((tmp_path / "visit.json").read_text())
    assert said["not_done"] == ["kernels"]
    assert "not done: kernels" in capsys.readouterr().out
    assert main(["gpu_visit", "--reference", str(tmp_path / "none.npz")]) == 1


@pytest.mark.slow
def test_a_dry_run(tmp_path):
    """All of it with the small network on a CPU: two minutes on a machine that has nothing else to do."""
    assert main(["gpu_visit", "--network", "small", "--device", "cpu", "--json", str(tmp_path / "visit.json")]) == 0
    said = json.loads((tmp_path / "visit.json").read_text())
    assert said["sections"].keys() == SECTIONS.keys() and not said["not_done"]
    assert 0 < said["seconds"] < 480
