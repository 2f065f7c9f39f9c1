"""What somebody meets first: the Python API, the examples, the one command, and what pip installs."""

import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from paths import ROOT, SUPPORT
from saved_maps import save

import vggt_ros
from vggt_ros import plugins
from vggt_ros.cli.main import COMMANDS, main
from vggt_ros.storage.files import read_ply, read_trajectory
from vggt_ros.synthetic import RenderedSequence, laps, room

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def small(count=60):
    """A part of the demo's way at a size that is solved in seconds."""
    return RenderedSequence("small", room(), laps(104, laps=0.6)[:count], (320, 240), rate=10.0)


def example(name, *arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{SUPPORT}"}
    done = subprocess.run([sys.executable, str(ROOT / "examples" / name), *map(str, arguments)], capture_output=True,
                          text=True, timeout=280, cwd=cwd, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_api_is_what_it_says():
    assert set(vggt_ros.__all__) == {"Config", "Slam", "create_reconstructor", "frames", "open_sequence"}
    for name in vggt_ros.__all__:
        assert getattr(vggt_ros, name).__name__ == name and name in dir(vggt_ros)
    with pytest.raises(AttributeError, match="no attribute 'Slamm'"):
        vggt_ros.Slamm  # noqa: B018


def test_importing_the_package_is_cheap():
    code = "import sys, vggt_ros; print([m for m in ('numpy', 'cv2', 'gtsam', 'torch', 'rclpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60,
                          check=True)
    assert done.stdout.strip() == "[]"


def test_every_example_is_run_here():
    text = Path(__file__).read_text()
    assert len(EXAMPLES) == 4
    assert all(f'example("{path.name}"' in text for path in EXAMPLES)


def test_a_folder_of_images_becomes_a_map(tmp_path):
    for i, (_, image) in enumerate(small()):
        cv2.imwrite(str(tmp_path / f"{i:04d}.png"), image[..., ::-1])
    said = example("image_folder.py", tmp_path, tmp_path / "map.ply", cwd=tmp_path)
    assert "keyframes in the largest submap" in said
    cloud = read_ply(tmp_path / "map.ply")
    assert len(cloud.points) > 2000 and np.isfinite(cloud.points).all()


def test_a_rosbag_becomes_a_trajectory(tmp_path):
    sys.path.append(str(ROOT / "dev"))
    from bags import IMAGE, jpeg, write_bag

    sequence = small()
    write_bag(tmp_path / "bag", ((stamp, jpeg(image)) for stamp, image in sequence), sequence.camera, sequence.truth)
    said = example("rosbag.py", tmp_path / "bag", f"{IMAGE}/compressed", tmp_path / "path.txt", cwd=tmp_path)
    stamps, _ = read_trajectory(tmp_path / "path.txt")
    assert len(stamps) > 30 and set(stamps) <= set(sequence.truth[0].tolist())
    assert float(said.split("ATE RMSE ")[1].split(" m")[0]) < 0.05


def test_an_own_reconstructor_takes_the_place_of_vggt(tmp_path):
    said = example("own_reconstructor.py", 60, cwd=tmp_path)
    assert "scale PRIOR" in said  # the windows are metric
    assert float(said.split("ATE RMSE ")[1].split(" m")[0]) < 0.05


def test_a_saved_map_becomes_a_colmap_model(tmp_path):
    save(tmp_path / "map")
    example("map_to_colmap.py", tmp_path / "map", tmp_path / "model", cwd=tmp_path)
    assert len(list((tmp_path / "model").rglob("cameras.*"))) >= 1


def test_the_command_lists_and_runs_its_subcommands(capsys):
    assert main([]) == 2 and main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)
    assert main(["--version"]) == 0 and capsys.readouterr().out.strip() == vggt_ros.__version__
    assert main(["replya"]) == 2 and "no command 'replya'; there are replay" in capsys.readouterr().err
    for name in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: vggt_ros {name}")


def test_pip_installs_one_command_and_says_what_it_needs(tmp_path):
    """A wheel: `replay` and `evaluate` would be other people's commands on the user's path."""
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    for name in ("setup.py", "setup.cfg", "requirements.txt", "requirements-da3.txt", "pyproject.toml"):  # as here
        (source / name).write_bytes((ROOT / name).read_bytes())
    built = subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
                            "-w", str(tmp_path), "."], cwd=source, capture_output=True, text=True, timeout=120,
                           check=False)
    assert built.returncode == 0, built.stderr
    wheel, = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    read = configparser.ConfigParser()
    read.read_string(points)
    assert dict(read["console_scripts"]) == {"vggt_ros": "vggt_ros.cli.main:main"}
    for position, group in enumerate((plugins.CLASSES, plugins.SETTINGS)):
        assert dict(read[group]) == {name: targets[position] for name, targets in plugins.BUILT_IN.items()}
    assert "vggt_ros/features/vocabulary.npz" in names
    needs = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert "gtsam==4.3.0" in needs and any(need.startswith("numpy>=") for need in needs)
    assert any(need.startswith("torch>=") and need.endswith('extra == "vggt"') for need in needs)
    assert any(need.startswith("rerun-sdk>=") and need.endswith('extra == "view"') for need in needs)
