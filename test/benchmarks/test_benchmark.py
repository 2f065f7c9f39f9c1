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
