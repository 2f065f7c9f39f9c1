"""Reconstructors as plug-ins: those of this package, and one that is installed into a fresh folder."""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

from vggt_ros import plugins
from vggt_ros.config import Config
from vggt_ros.reconstruction import create, create_reconstructor
from vggt_ros.reconstruction.base import ReconstructionRefused, ReconstructorUnavailable, WindowGeometry
from vggt_ros.settings import ConfigError, setting

EXAMPLE = ROOT / "examples" / "reconstructor_plugin"


@dataclass(frozen=True)
class PlaneSettings:
    """Of the reconstructor below."""

    distance: float = setting(2.0, "Distance of the plane.", unit="m", low=0.1, high=10.0)


class Plane:
    """Sees a wall in front of every camera."""

    name = "plane"

    def __init__(self, config):
        self.distance = config.of(PlaneSettings).distance

    @classmethod
    def unavailable_reason(cls, config, at_once):
        return "there is no wall" if config.of(PlaneSettings).distance > 9 else ""

    def load(self, progress, download):
        progress("looking for a wall")
        if self.distance > 8:
            raise ReconstructorUnavailable("the wall is too far away")

    def image_size(self, camera):
        return 8, 6

    def reconstruct(self, window):
        count = len(window.keyframes)
        return WindowGeometry(window.ids, np.tile(np.eye(4), (count, 1, 1)), np.tile(np.eye(3), (count, 1, 1)),
                              np.full((count, 6, 8), self.distance, np.float32), np.ones((count, 6, 8), np.float32))


@pytest.fixture(name="registered")
def _registered(monkeypatch):
    """Return a function that registers entry points: group to name to target."""
    def register(points):
        monkeypatch.setattr(plugins, "entry_points", lambda group: [
            EntryPoint(name, target, group) for name, target in points.get(group, {}).items()])
        plugins.forget()

    yield register
    plugins.forget()


PLANE = {plugins.CLASSES: {"plane": f"{__name__}:Plane"}, plugins.SETTINGS: {"plane": f"{__name__}:PlaneSettings"}}


def test_setup_registers_what_a_checkout_has():
    """The same reconstructors as entry points and in the table, which exist."""
    text = (ROOT / "setup.py").read_text()
    values = {}
    exec(text[text.index("RECONSTRUCTORS = "):text.index('"""As other packages')], values)
    for group, position in ((plugins.CLASSES, 0), (plugins.SETTINGS, 1)):
        assert values["RECONSTRUCTORS"][group] == [f"{name} = {targets[position]}"
                                                   for name, targets in plugins.BUILT_IN.items()]
    assert plugins.names()[:len(plugins.BUILT_IN)] == tuple(plugins.BUILT_IN)
    for name, settings in plugins.default_settings().items():
        assert type(Config().of(type(settings))) is type(settings), name


def test_nothing_else_names_the_reconstructors():
    """Names of the built-in ones are in the table only, outside of their folders and of what is about one of them."""
    own = ("reconstruction/vggt/", "reconstruction/multiview/", "reconstruction/da3/", "reconstruction/remote",
           "ros/remote/", "benchmarks/", "cli/", "plugins.py", "synthetic/")
    for path in sorted((ROOT / "vggt_ros").rglob("*.py")):
        if str(path.relative_to(ROOT / "vggt_ros")).startswith(own):
            continue
        text = path.read_text()
        for name in plugins.BUILT_IN:
            assert f'"{name}"' not in text and f"reconstruction.{name}" not in text, path


def test_a_plug_in_is_selected_configured_and_created(registered):
    registered(PLANE)
    assert plugins.names() == ("vggt", "multiview", "da3", "remote", "plane")
    config = Config().replace({"reconstructor": "plane", "plane.distance": 3.0})
    assert config.of(PlaneSettings).distance == 3.0 and Config().of(PlaneSettings).distance == 2.0
    assert config.parse(["plane.distance=4"]).of(PlaneSettings).distance == 4.0
    assert {one.name for one, _ in config} >= {"plane.distance", "vggt.width", "multiview.corners"}
    with pytest.raises(ConfigError, match=r"plane.distance: 20.0 is outside \[0.1, 10.0\] m"):
        config.replace({"plane.distance": 20.0})


def test_a_plug_in_says_why_it_cannot_run(registered, monkeypatch):
    registered(PLANE)
    monkeypatch.setattr(plugins, "load_class", lambda name: Plane)
    told = []
    made, reason = create_reconstructor(Config().replace({"reconstructor": "plane"}), told.append)
    assert (made.name, told) == ("plane", ["looking for a wall"])
    assert reason == "plane, as configured; its windows are refined"
    for distance, words in ((9.5, "there is no wall"), (8.5, "too far away")):
        with pytest.raises(ConfigError, match=f"reconstructor: plane is configured, but .*{words}"):
            create_reconstructor(Config().replace({"reconstructor": "plane", "plane.distance": distance}))


def test_a_plug_in_that_cannot_be_imported_harms_nobody_else(registered, caplog):
    registered({plugins.CLASSES: {"broken": "no_such_module:Class"},
                plugins.SETTINGS: {"broken": "no_such_module:Settings", "odd": f"{__name__}:Plane"}})
    config = Config()
    assert set(config.reconstructors) == {"vggt", "multiview", "da3", "remote"}
    assert "the settings of the reconstructor broken (no_such_module:Settings) cannot be used" in caplog.text
    assert "the settings of the reconstructor odd" in caplog.text
    with pytest.raises(ReconstructorUnavailable, match="broken needs no_such_module, which is not installed"):
        create("broken", config.replace({"reconstructor": "broken"}))


def test_two_packages_with_one_name_are_refused(registered):
    registered({plugins.CLASSES: {"vggt": "other:Class"}})
    with pytest.raises(ConfigError, match="two packages register a reconstructor 'vggt'"):
        plugins.names()


# The example, installed from its wheel.

@pytest.fixture(name="installed", scope="module")
def _installed(tmp_path_factory):
    """Return the environment variables of a fresh folder with the example and this package."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("pip is not installed")
    folder = tmp_path_factory.mktemp("fresh")
    source = shutil.copytree(EXAMPLE, folder / "source")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
                           "--no-index", "--target", str(folder / "site"), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list((folder / "site").glob("vggt_ros_smooth-0.1.dist-info/entry_points.txt"))
    path = os.pathsep.join([str(folder / "site"), str(ROOT), *(one for one in sys.path if one)])
    return {**os.environ, "PYTHONPATH": path}


def run(environment, code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=400,
                          env=environment, cwd=Path(environment["PYTHONPATH"].split(os.pathsep)[0]))
    return done.returncode, done.stdout, done.stderr


CHECK = "import sys; from vggt_ros.cli.check import main; sys.exit(main(sys.argv[1:]))"


def test_the_example_is_short():
    lines = (EXAMPLE / "vggt_ros_smooth.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 34


def test_the_settings_of_the_example_become_parameters_and_text(installed):
    status, said, wrong = run(installed, CHECK, "--reconstructor", "smooth", "--parameters")
    assert status == 0, wrong
    assert "    smooth:\n" in said and "      size: 3\n" in said
    assert "| `smooth.size` | `3` | 1 to 5 px | Side of the median filter" in said
    if importlib.util.find_spec("rclpy") is None:
        pytest.skip("rclpy is not installed")
    code = ("import rclpy; from rclpy.node import Node; from rclpy.parameter import Parameter\n"
            "from vggt_ros.ros.common.parameters import declare; rclpy.init()\n"
            "node = Node('n', parameter_overrides=[Parameter('smooth.size', value=5),\n"
            "                                      Parameter('reconstructor', value='smooth')])\n"
            "config = declare(node)\n"
            "print(sorted(node.get_parameters_by_prefix('smooth')), node.get_parameter('smooth.size').value,\n"
            "      node.describe_parameter('smooth.size').integer_range[0].to_value, config.reconstructor)\n"
            "node.destroy_node(); rclpy.shutdown()")
    status, said, wrong = run(installed, code)
    assert status == 0, wrong
    assert said.strip().splitlines()[-1] == "['size'] 5 5 smooth"


def test_the_example_keeps_to_the_contract(installed):
    """Found, run in this process and in one of its own, and checked."""
    status, said, wrong = run(installed, CHECK, "--reconstructor", "smooth", "--set", "multiview.width=400")
    assert status == 0, said + wrong
    assert "vggt_ros_smooth.Smooth of vggt-ros-smooth 0.1, 1 settings" in said
    assert "red" not in {line.split()[0] for line in said.splitlines()}
    assert "green  process" in said and "green  poses" in said and "green  depth" in said


def test_refusals_pass_through_the_example():
    """It adds nothing to what its inner one refuses."""
    spec = importlib.util.spec_from_file_location("vggt_ros_smooth", EXAMPLE / "vggt_ros_smooth.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Refuses:
        def reconstruct(self, window):
            raise ReconstructionRefused("no parallax")

    made = module.Smooth.__new__(module.Smooth)
    made.inner = Refuses()
    with pytest.raises(ReconstructionRefused, match="no parallax"):
        made.reconstruct(None)
