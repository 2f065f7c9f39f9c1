"""Faults of other packages: the list of docs/explanation/tested-faults.md, and those that only text can have."""

import ast
import re
import xml.etree.ElementTree as ElementTree

import pytest
from paths import ROOT

LAUNCH = ast.parse((ROOT / "launch" / "slam.launch.py").read_text())
CALLS = [node for node in ast.walk(LAUNCH) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
PAGE = (ROOT / "docs" / "explanation" / "tested-faults.md").read_text()
LISTED = sorted(set(re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", PAGE)))


@pytest.mark.parametrize(("file", "test"), LISTED)
def test_every_listed_test_exists(file, test):
    tree = ast.parse((ROOT / "test" / file).read_text())
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_fault_names_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20 and all("::test_" in row for row in rows)


def test_the_launch_file_needs_what_is_declared():
    """Executables and files of other packages, which no import shows: another wrapper needs Nav2, undeclared."""
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    declared = {"vggt_ros"} | {item.text for item in package.iter("exec_depend")}
    started = {word.value.value for call in CALLS for word in call.keywords if word.arg == "package"}
    shared = {call.args[0].value for call in CALLS if call.func.id == "FindPackageShare"}
    assert "rviz2" in started and shared  # else the test looks in the wrong place
    assert started | shared <= declared | {"rviz2"}  # a robot needs no RViz, which brings a desktop
    assert "rviz2" not in declared


def test_a_bag_is_launched_with_its_clock():
    """The player publishes /clock, and the node uses it unless it is configured otherwise."""
    started = {next(w.value.value for w in call.keywords if w.arg == "executable"): ast.unparse(call) for call in CALLS
               if call.func.id in ("Node", "LifecycleNode")}
    assert "'--clock'" in started["bag_player"]
    assert "sim_time" in started["slam_node"] and "sim_time" in started["rviz2"]
    assert "[{'use_sim_time': True}] if given['bag'] else []" in ast.unparse(LAUNCH)


def test_nothing_is_mocked():
    """gtsam and rclpy are the real ones in every test, and so is all else that could be replaced by a Mock."""
    for path in sorted((ROOT / "test").rglob("*.py")):
        names = {alias.name for node in ast.walk(ast.parse(path.read_text())) for alias in getattr(node, "names", ())
                 if isinstance(alias, ast.alias)}
        modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not {name for name in names | modules if name and re.search(r"\bmock\b", name)}, path.name
