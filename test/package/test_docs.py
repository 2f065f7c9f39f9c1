"""The documentation names only what exists: pages, options, launch arguments, parameters, topics, files, tests."""

import ast
import contextlib
import functools
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest
import yaml
from paths import ROOT

from vggt_ros.config import Config

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
SETTINGS = {setting.name for setting, _ in Config()}
GROUPS = {name.split(".")[0] for name in SETTINGS if "." in name}
SHELL = {"export"}
"""An executable of the package that is a word of the shell, too."""
SUFFIXES = {"bag", "json", "npy", "npz", "pgm", "ply", "png", "py", "txt", "yaml"}
"""Of file names such as `map.json`, which look like settings."""


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


each_text = pytest.mark.parametrize("text", TEXTS, ids=names(TEXTS))


def blocks(text: Path) -> list[tuple[str, str]]:
    """Return language and content of the fenced code blocks."""
    return re.findall(r"^ *```(\w+)\n(.*?)^ *```", text.read_text(), re.MULTILINE | re.DOTALL)


def inline(text: Path) -> list[str]:
    """Return what stands in single backticks, outside of code blocks."""
    prose = re.sub(r"^ *```.*?^ *```", "", text.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def commands(text: Path) -> list[list[str]]:
    """Return the words of every command in shell blocks, and of the pieces of code in the prose."""
    lines = [line for language, content in blocks(text) if language in ("sh", "bash")
             for line in content.replace("\\\n", " ").splitlines()]
    found = []
    for line in [*lines, *inline(text)]:
        for part in re.split(r"&&|\||;", line):
            with contextlib.suppress(ValueError):  # an apostrophe
                found.append(shlex.split(part, comments=True))
    return [words for words in found if words]


def executables() -> dict[str, str]:
    """Return name to module, of all but `vggt_ros`, whose subcommands they are."""
    found = dict(re.findall(r'"(\w+) = ([\w.]+):main"', (ROOT / "setup.py").read_text()))
    del found["vggt_ros"]
    return found


def executable(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the executable of the package that a command starts and the words after it; None if it starts none."""
    for start in (["./dev/run"], ["ros2", "run", "vggt_ros"], ["vggt_ros"], []):  # the last in prose
        rest = words[len(start):]
        if words[:len(start)] == start and rest and rest[0] in executables() and (start or rest[0] not in SHELL):
            return rest[0], rest[1:]
    return None


@functools.cache
def options(name: str, subcommand: str = "") -> frozenset[str]:
    """Return the options that an executable lists in its help."""
    module = importlib.import_module(executables()[name])
    with contextlib.redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit):
        module.main([*([subcommand] if subcommand else []), "--help"])
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text.getvalue()))


def subcommands() -> list[str]:
    from vggt_ros.cli import benchmark

    with contextlib.redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit):
        benchmark.main(["--help"])
    return re.search(r"\{([\w,]+)\}", text.getvalue())[1].split(",")


def importable(name: str) -> bool:
    try:
        importlib.import_module(executables()[name])
    except ImportError:  # bag_player needs rclpy
        return False
    return True


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_page_is_in_a_table_of_contents():
    listed = {"index.md"}
    for page in PAGES:
        for content in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            listed |= {str((page.parent / line.strip()).relative_to(DOCS)) + ".md" for line in content.splitlines()
                       if line.strip() and not line.startswith(":")}
    assert listed == {str(page.relative_to(DOCS)) for page in PAGES}


@each_text
def test_links_lead_to_files(text):
    """Sphinx checks those of pages with their headings; this is for the README, and without Sphinx."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text.read_text())
    missing = [link for link in links if "://" not in link and not (text.parent / link).exists()]
    assert not missing


@each_text
def test_options_exist(text):
    for words in commands(text):
        found = executable(words)
        if found is None or not importable(found[0]) or found[0] == "slam_node":
            continue
        name, rest = found
        subcommand = rest[0] if name == "benchmark" and rest and rest[0] in subcommands() else ""
        assert name != "benchmark" or not rest or subcommand, f"{text.name}: {' '.join(words)}: no such benchmark"
        used = {word.split("=")[0] for word in rest if word.startswith("--")}
        assert used <= options(name, subcommand), f"{text.name}: {' '.join(words)}"


@each_text
def test_options_of_the_demo_exist(text):
    script = (ROOT / "dev" / "demo.py").read_text()
    known = set(re.findall(r'add_argument\("(--\w+)"', script)) | {"--help"}
    assert len(known) > 3
    for words in commands(text):
        if words[0] == "./dev/demo":
            assert {word for word in words if word.startswith("--")} <= known, " ".join(words)


@each_text
def test_launch_arguments_exist(text):
    launch = (ROOT / "launch" / "slam.launch.py").read_text()
    known = set(re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', launch))
    assert len(known) > 5
    # Parameters and topics of other nodes, after -p and -r, are none.
    used = set(re.findall(r"\b(\w+):=", re.sub(r" -[pr] \S+", "", text.read_text())))
    assert used <= known


def test_the_launch_arguments_are_all_documented():
    page = (DOCS / "reference" / "command-lines.md").read_text()
    table = page.split("## Launch file")[1].split("\n## ")[0]
    launch = (ROOT / "launch" / "slam.launch.py").read_text()
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == \
        re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', launch)


@pytest.mark.parametrize("name", [name for name in executables() if name != "slam_node"])
def test_the_options_are_all_documented(name):
    """The section of an executable in the reference has its options, neither more nor less."""
    if not importable(name):
        pytest.skip(f"{name} cannot be imported: rclpy is not installed")
    page = (DOCS / "reference" / "command-lines.md").read_text()
    section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    written = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", table + section.split("```")[1]))
    known = set(options(name))
    if name == "benchmark":
        known = set().union(*(options(name, subcommand) for subcommand in subcommands()))
        written |= {"--json"}  # of all of them, named in the text
        rows = re.findall(r"^\| `(\w+)", section, re.MULTILINE)
        assert sorted(rows) == sorted(subcommands()) == sorted(re.search(r"\{([\w,]+)\}", section)[1].split(","))
    elif name == "evaluate":
        known |= {"--depth"}
    missing, wrong = known - written - {"--help"}, written - known - {"--help"}
    assert not missing, "not documented"
    # What other commands write may be mentioned: `replay --depth`.
    assert not wrong


@each_text
def test_parameters_exist(text):
    """Written as `group.name`, `group.name: value`, `--set group.name=value`, or in a block of YAML."""
    used = set()
    for words in inline(text):
        if found := re.match(r"([a-z_]+)\.([a-z_]+)(?:$|[:=])", words):
            used.add((found[1], found[2]))
    used |= {(group, name) for group, name in re.findall(r"--set ([a-z_]+)\.([a-z_]+)=", text.read_text())}
    used |= {(group, name) for group, name in re.findall(r"/vggt_slam ([a-z_]+)\.([a-z_]+)", text.read_text())}
    wrong = {f"{group}.{name}" for group, name in used
             if group in GROUPS and name not in SUFFIXES and f"{group}.{name}" not in SETTINGS}
    assert not wrong
    for language, content in blocks(text):
        for group, values in _parameters(content).items() if language == "yaml" else ():
            written = {f"{group}.{name}" for name in values} if isinstance(values, dict) else {group}
            assert written <= SETTINGS, f"{text.name}: {content}"


def _parameters(content: str) -> dict:
    """Return the parameters of the node in a block of YAML; none if it is of other programs."""
    return (yaml.safe_load(content).get("/**") or {}).get("ros__parameters", {})


@each_text
def test_topics_and_services_exist(text):
    """Both tables are held to the node by test_package.py."""
    topics, services = ((DOCS / "reference" / f"{page}.md").read_text() for page in ("topics", "services"))
    known = set(re.findall(r"^\| `(~/[\w/]+)` \|", topics + services, re.MULTILINE))
    known |= {"~/change_state", "~/get_state"}  # of every lifecycle node
    assert len(known) > 10
    prose = re.sub(r"```.*?```", "", text.read_text(), flags=re.DOTALL)
    used = set(re.findall(r"`(~/[\w/]+)`", prose))
    used |= {"~/" + name for name in re.findall(r"/vggt_slam/([\w/]+)", text.read_text())}
    assert used <= known


@each_text
def test_source_files_exist(text):
    """Files of the repository that are named by their path."""
    folders = "config|dev|docs|launch|test|vggt_ros"
    used = [word for word in inline(text) if re.fullmatch(rf"(?:\./)?(?:{folders})/[\w./-]+\.\w+", word)]
    assert not [word for word in used if not (ROOT / word).exists()]


@each_text
def test_named_tests_exist(text):
    """Functions named `test_...` without their file."""
    known = {node.name for path in (ROOT / "test").rglob("test_*.py") for node in ast.parse(path.read_text()).body
             if isinstance(node, ast.FunctionDef)}
    used = {word.split("::")[-1] for word in inline(text) if re.fullmatch(r"(?:[\w/]+\.py::)?test_\w+", word)}
    assert used <= known
