"""The benchmark's command line."""

import json

import pytest

from vggt_ros.cli.benchmark import main


@pytest.mark.parametrize(("arguments", "named"), [
    (["vggt", "--size", "71", "56"], "71x56"), (["vggt", "--frames", "2", "--overlap", "2"], "shared frames (2)"),
    (["accuracy", "--sequences", "nowhere"], "nowhere"), (["accuracy", "--set", "seed=x"], "seed"),
    (["fusion", "--scenes", "nowhere"], "nowhere")])
def test_errors_name_bad_arguments(capsys, arguments, named):
    pytest.importorskip("torch", reason="torch is not installed")
    assert main(arguments) == 1
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-1", "2.5", "all"])
def test_a_benchmark_without_runs_is_refused(capsys, count):
    pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(SystemExit):
        main(["refinement", "--seeds", count])
    assert f"{count!r} is not a whole number from 1 up" in capsys.readouterr().err


def test_the_network_is_compared_with_the_reference_mode(tmp_path, capsys):
    pytest.importorskip("torch", reason="torch is not installed")
    arguments = ["--network", "small", "--rounds", "1", "--repeat", "1", "--frames", "2", "--overlap", "1"]
    assert main(["vggt", *arguments, "--size", "70", "56", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    for mode in ("ours", "reference"):
        (measured,) = figures[mode]
        assert (measured["mode"], measured["width"], measured["height"]) == (mode, 70, 56)
        assert measured["median_s"] > 0 and measured["peak_bytes"] > 1e8
    assert figures["time_ratio"] == figures["ours"][0]["median_s"] / figures["reference"][0]["median_s"]
    assert "of the reference mode's time" in capsys.readouterr().out


def test_updates_of_the_graph_are_timed(tmp_path, capsys):
    """On windows of which the last have loops: all true ones are accepted, no false one, and times are positive."""
    assert main(["updates", "--windows", "250", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    for name in ("update", "others_wait"):
        assert 0 < figures[f"{name}_median_ms"] <= figures[f"{name}_p99_ms"] <= figures[f"{name}_worst_ms"] < 1000
    said = capsys.readouterr().out
    assert "3 of 3 true loops accepted" in said and "0 of 3 false loops accepted" in said


@pytest.mark.slow
def test_a_window_of_a_network_is_timed(tmp_path, capsys):
    """In a process of its own, on one core, with generated weights."""
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("depth_anything_3", reason="depth-anything-3 is not installed")
    small = ["window", "--networks", "da3-small", "--cores", "1", "--frames", "2", "--rounds", "1"]
    assert main([*small, "--set", "da3.width=112", "--json", str(tmp_path / "figures.json")]) == 0
    found = json.loads((tmp_path / "figures.json").read_text())["windows"]["da3-small, 1 cores"]
    assert found["size"] == "112x84" and found["parameters_m"] == pytest.approx(26.18, abs=0.01)
    assert found["cpu_s"] > 0 and found["seconds"] > 0 and found["memory_mb"] > found["before_mb"] > 100
    assert "da3-small" in capsys.readouterr().out
    assert main([*small, "--set", "da3.width=1"]) == 1
    assert "da3.width: 1 is outside" in capsys.readouterr().err
