"""Consistency of the package: its description, its layers, and files that must agree with each other."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from paths import ROOT

PACKAGE = ROOT / "vggt_ros"
MODULES = sorted(PACKAGE.rglob("*.py"))

WINGS = ("native_stderr",), ("settings", "threads", "process_info", "child_process"), ("heap", "plugins"), \
    ("config",), ("parameter_text", "geometry"), ("images",), ("windows",), ("reconstruction",), ("features",), \
    ("pose_graph",), \
    ("storage",), ("scale", "arguments"), ("places",), ("odometry",), ("mapping",), ("loops",), ("slam",), \
    ("worker", "workers"), \
    ("view",), ("replay",), ("ros",), ("benchmarks",), ("cli",)
"""Layers, lowest first: a wing imports only from wings in lower layers, or from itself."""
SUPPORT = {"sequences": "reconstruction", "evaluation": "reconstruction", "synthetic": "scale"}
"""Wings that the algorithm never imports, each with the highest wing that it may import."""
ORDER = {wing: level for level, wings in enumerate(WINGS) for wing in wings}
MAY_USE_SUPPORT = ORDER["replay"]  # wings from this layer up may import the support wings

PARTS = {
    "ros": (("common", "conversions"), ("tf",), ("inputs",), ("outputs",), ("node", "remote", "tools")),
    "benchmarks": (("accuracy", "fusion", "gpu", "robustness"), ("check", "ros"), ("speed",)),
    "mapping": (("submaps", "grid"), ("dense",), ("files",)),
    "reconstruction/multiview": (("matching",), ("sfm", "dense")),
    "reconstruction/vggt": (("model", "output"), ("checkpoints",), ("runtime",), ("comparison",)),
}
"""Sub-packages of large packages in layers, as `WINGS`."""

CONFINED = {
    "rclpy": ("vggt_ros/ros/", "vggt_ros/benchmarks/ros/", "vggt_ros/benchmarks/robustness/"),
    "tf2_ros": ("vggt_ros/ros/",),
    "torch": ("vggt_ros/reconstruction/vggt/", "vggt_ros/reconstruction/da3/", "vggt_ros/benchmarks/"),
    "depth_anything_3": ("vggt_ros/reconstruction/da3/", "vggt_ros/benchmarks/"),
    "rerun": ("vggt_ros/view/",),
    "gtsam": ("vggt_ros/pose_graph/optimization.py", "vggt_ros/scale/preintegration.py", "vggt_ros/benchmarks/"),
}


def wing(module: str) -> str:
    """Return the wing of a dotted name such as vggt_ros.ros.node.slam_node; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


KNOWN = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
"""Dotted name to file, of every module."""


def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports anywhere, also inside functions and for type checking."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; use the full name of the package"
            modules = {f"{node.module}.{alias.name}" for alias in node.names} & KNOWN.keys()
            found |= modules or {node.module}
    return found


def wings_imported() -> dict[str, dict[str, str]]:
    """Return, for each wing, the wings that it imports, with an example."""
    found: dict[str, dict[str, str]] = {}
    for name, path in KNOWN.items():
        for other in imports(path):
            if other.startswith("vggt_ros.") and wing(other) != wing(name):
                found.setdefault(wing(name), {})[wing(other)] = f"{name} imports {other}"
    found.pop("", None)  # the package itself may import all
    return found


def test_every_wing_is_in_a_layer():
    assert {wing(name) for name in KNOWN} - {""} == ORDER.keys() | SUPPORT.keys()


def test_wings_import_from_lower_layers_only():
    for here, others in wings_imported().items():
        for other, what in others.items():
            if other in SUPPORT:
                assert here in SUPPORT or ORDER[here] >= MAY_USE_SUPPORT, f"{what}, which is a support wing"
            elif here in SUPPORT:
                assert ORDER[other] <= ORDER[SUPPORT[here]] or other == "storage", f"{what}: too high for {here}"
            else:
                assert ORDER[other] < ORDER[here], f"{what}, which is in a higher layer"


@pytest.mark.parametrize("here", PARTS)
def test_sub_packages_import_from_lower_layers_only(here):
    order = {name: level for level, names in enumerate(PARTS[here]) for name in names}
    parts = {name: path.relative_to(PACKAGE / here).parent.name for name, path in KNOWN.items()
             if path.is_relative_to(PACKAGE / here)}
    assert set(parts.values()) - {""} == order.keys()
    for name, part in parts.items():
        for other in imports(KNOWN[name]) & parts.keys():
            if part and parts[other] not in ("", part):
                assert order[parts[other]] < order[part], f"{name} imports {other}"


def test_no_circular_imports():
    """Not even within a wing, nor inside functions: a late import is a sign that code belongs into another module."""
    known = {name: imports(path) & KNOWN.keys() for name, path in KNOWN.items() if name != "vggt_ros"}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " imports ".join([*above[above.index(name):], name])
        if name not in done:
            for other in known.get(name, ()):
                visit(other, (*above, name))
            done.add(name)

    for name in known:
        visit(name, ())


def test_modules_have_at_most_300_lines():
    assert not [f"{path}: {count} lines" for path in MODULES if (count := len(path.read_text().splitlines())) > 300]


@pytest.mark.parametrize("library", CONFINED)
def test_heavy_imports_are_confined(library):
    allowed = CONFINED[library]
    users = {str(path.relative_to(ROOT)) for path in MODULES if any(name.split(".")[0] == library for name in
                                                                  imports(path))}
    assert not [user for user in users if not user.startswith(allowed)]
    if library in ("rclpy", "gtsam"):
        assert users, "the test looks in the wrong place"


def test_core_needs_neither_ros_nor_torch():
    code = ("import sys, vggt_ros.slam, vggt_ros.worker, vggt_ros.reconstruction, vggt_ros.cli.replay;"
            "print([name for name in ('rclpy', 'torch', 'rerun') if name in sys.modules])")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert answer.stdout.strip() == "[]", answer.stderr


def test_package_xml():
    tree = ElementTree.parse(ROOT / "package.xml").getroot()
    assert tree.get("format") == "3" and tree.findtext("name") == "vggt_ros"
    assert tree.findtext("export/build_type") == "ament_python"
    assert tree.findtext("license") == "Apache-2.0" and (ROOT / tree.find("license").get("file")).exists()
    order = [child.tag for child in tree]
    head = ["name", "version", "description", "maintainer", "license", "url", "url", "url", "author"]
    assert order[:len(head)] == head, "the schema asks for this order"
    catkin = pytest.importorskip("catkin_pkg.package", reason="catkin_pkg is not installed")
    catkin.parse_package(str(ROOT / "package.xml")).validate()


def test_dependencies_are_declared():
    """All packages that the code or the launch file imports are in package.xml or requirements.txt."""
    tree = ElementTree.parse(ROOT / "package.xml").getroot()
    declared = {item.text for item in tree.iter("exec_depend")}
    pip = set(re.findall(r"^([A-Za-z0-9_-]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    keys = {"cv2": "python3-opencv", "numpy": "python3-numpy", "matplotlib": "python3-matplotlib",
            "scipy": "python3-scipy", "tqdm": "python3-tqdm", "yaml": "python3-yaml", "tf2_ros": "tf2_ros_py",
            "rosbags": "python3-rosbags-pip"}
    used = set()
    for path in [*MODULES, ROOT / "launch" / "slam.launch.py"]:
        used |= {name.split(".")[0] for name in imports(path)}
    optional = {"cv_bridge", "torch", "safetensors", "huggingface_hub", "rerun",  # named in an error or by the README
                "depth_anything_3"}
    used -= {"vggt_ros", "__future__"} | optional | set(sys.stdlib_module_names)
    missing = {name for name in used if not {name, keys.get(name, name)} & (declared | pip)}
    assert not missing


def test_versions_agree():
    tree = ElementTree.parse(ROOT / "package.xml").getroot()
    setup = (ROOT / "setup.py").read_text()
    code = (PACKAGE / "__init__.py").read_text()
    assert tree.findtext("version") == re.search(r'version="([^"]+)"', setup)[1] == \
        re.search(r'__version__ = "([^"]+)"', code)[1]


def entry_points() -> dict[str, tuple[str, str]]:
    found = re.findall(r'"(\w+) = ([\w.]+):(\w+)"', (ROOT / "setup.py").read_text())
    return {name: (module, function) for name, module, function in found}


@pytest.mark.parametrize("name", ["slam_node", "bag_player", "view", "replay", "evaluate", "export", "benchmark",
                                  "parity", "check"])
def test_entry_points_exist(name):
    module, function = entry_points()[name]
    path = ROOT / Path(*module.split(".")).with_suffix(".py")
    assert path.exists(), f"{name}: {path} does not exist"
    assert function in {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_commands_are_executable():
    for name in ("dev/setup", "dev/demo", "dev/docs", "dev/test", "dev/run", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK), name


def settings_writer():
    spec = importlib.util.spec_from_file_location("slam_yaml", ROOT / "dev" / "slam_yaml.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    return writer


def test_parameter_file_is_the_settings():
    """config/slam.yaml is what dev/slam_yaml.py writes, and is read back as the defaults with their types."""
    from vggt_ros.config import Config

    writer = settings_writer()
    text = (ROOT / "config" / "slam.yaml").read_text()
    assert text == writer.slam_yaml(), "run: python dev/slam_yaml.py"
    read = yaml.safe_load(text)["/**"]["ros__parameters"]
    flat = {name: value for name, value in read.items() if not isinstance(value, dict)}
    flat |= {f"{group}.{name}": value for group, values in read.items() if isinstance(values, dict)
             for name, value in values.items()}
    defaults = {setting.name: value for setting, value in Config()}
    assert flat == defaults
    assert {name: type(value) for name, value in flat.items()} == {name: type(v) for name, v in defaults.items()}


def rviz_topics() -> dict[str, tuple[str, str]]:
    """Return topic to (display class, durability) of config/slam.rviz."""
    displays = yaml.safe_load((ROOT / "config" / "slam.rviz").read_text())["Visualization Manager"]["Displays"]
    return {display["Topic"]["Value"]: (display["Class"].split("/")[-1], display["Topic"]["Durability Policy"])
            for display in displays if "Topic" in display}


DISPLAYS = {"PointCloud2": "sensor_msgs/msg/PointCloud2", "Path": "nav_msgs/msg/Path",
            "MarkerArray": "visualization_msgs/msg/MarkerArray", "Odometry": "nav_msgs/msg/Odometry",
            "PoseWithCovariance": "geometry_msgs/msg/PoseWithCovarianceStamped", "Image": "sensor_msgs/msg/Image",
            "Map": "nav_msgs/msg/OccupancyGrid"}
"""Display of RViz to the type that it shows."""


@pytest.fixture(scope="module")
def node_topics():
    """Topics of the real node, configured: name to (type, latched)."""
    rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
    from rclpy.lifecycle import TransitionCallbackReturn
    from rclpy.qos import DurabilityPolicy

    from vggt_ros.ros.node.slam_node import SlamNode

    context = rclpy.Context()
    rclpy.init(context=context)
    node = SlamNode(context=context, parameter_overrides=[rclpy.Parameter("reconstructor", value="multiview")])
    configured = node.trigger_configure()
    try:
        assert configured == TransitionCallbackReturn.SUCCESS
        found = {}
        for topic, kinds in node.get_publisher_names_and_types_by_node(node.get_name(), node.get_namespace()):
            if (topic.startswith("/vggt_slam/") and "transition_event" not in topic) or topic == "/diagnostics":
                (info,) = node.get_publishers_info_by_topic(topic)
                found[topic] = (kinds[0], info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL)
        yield found
    finally:
        if configured == TransitionCallbackReturn.SUCCESS:
            node.trigger_cleanup()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_node_publishes_the_documented_topics(node_topics):
    expected = {"odom", "pose", "path", "cloud", "map", "grid", "cloud_map", "cloud_map_updates", "map_updates",
                "features", "depth/image", "depth/camera_info", "markers", "status", "slam_status"}
    assert set(node_topics) == {f"/vggt_slam/{name}" for name in expected} | {"/diagnostics"}
    assert {topic.removeprefix("/vggt_slam/") for topic, (_, latched) in node_topics.items() if latched} == \
        {"path", "map", "grid", "cloud_map", "markers", "status", "slam_status"}


def test_rviz_shows_what_the_node_publishes(node_topics):
    """Known fault: a display of a topic that is not published, or with a durability that misses latched messages."""
    shown = rviz_topics()
    assert shown
    for topic, (display, durability) in shown.items():
        kind, latched = node_topics[topic]
        assert DISPLAYS[display] == kind, topic
        assert durability == ("Transient Local" if latched else "Volatile"), topic


def test_launch_file_remaps_all_that_rviz_shows():
    launch = (ROOT / "launch" / "slam.launch.py").read_text()
    shown = ast.literal_eval(re.search(r"^SHOWN = (\(.*?\))$", launch, re.MULTILINE)[1])
    assert {f"/vggt_slam/{name}" for name in shown} == set(rviz_topics())


def test_reference_names_the_topics(node_topics):
    """The table of outputs: | `~/topic` | type | QoS |, latched ones by the words transient local."""
    page = ROOT / "docs" / "reference" / "topics.md"
    rows = re.findall(r"^\|\s*`(~/[\w/]+|/diagnostics)`\s*\|\s*`?([\w/]+)`?\s*\|([^|]*)\|", page.read_text(),
                      re.MULTILINE)
    outputs = {topic.replace("~", "/vggt_slam"): (kind, "transient local" in qos) for topic, kind, qos in rows}
    assert outputs == {topic: (kind.replace("/msg/", "/"), latched) for topic, (kind, latched) in node_topics.items()}


def test_reference_names_the_services():
    """The table of services, against the names and types of the node's commands."""
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    from vggt_ros.ros.conversions.interfaces import SERVICES, TYPED_SERVICES

    page = (ROOT / "docs" / "reference" / "services.md").read_text()
    rows = re.findall(r"^\| `~/(\w+)` \| `(\w+/\w+)` \|", page, re.MULTILINE)
    types = {name: f"{kind.__module__.split('.')[0]}/{kind.__name__}" for name, kind in
             {**SERVICES, **TYPED_SERVICES}.items()}
    assert dict(rows) == types if TYPED_SERVICES else types.items() <= dict(rows).items()


def test_reference_names_every_setting():
    page = (ROOT / "docs" / "reference" / "parameters.md").read_text()
    assert page == settings_writer().parameters_page(), "run: python dev/slam_yaml.py"
    assert len(re.findall(r"^\| `([a-z_.]+)` \| ", page, re.MULTILINE)) > 40


MESSAGES = ROOT / "vggt_ros_msgs"


def test_colcon_and_rosdep_find_both_packages(tmp_path):
    """In a workspace as README.md makes it: neither looks inside a package for another one, both follow links."""
    source = tmp_path / "src"
    source.mkdir()
    (source / "vggt_ros").symlink_to(ROOT)
    (source / "vggt_ros_msgs").symlink_to("vggt_ros/vggt_ros_msgs")
    catkin = pytest.importorskip("catkin_pkg.packages", reason="catkin_pkg is not installed")
    assert set(catkin.find_package_paths(str(source))) == {"vggt_ros", "vggt_ros_msgs"}
    colcon = shutil.which("colcon")
    if colcon is None:
        pytest.skip("colcon is not installed")
    listed = subprocess.run([colcon, "list", "--base-paths", str(source)], capture_output=True, text=True, check=True,
                            cwd=tmp_path, env={**os.environ, "COLCON_LOG_PATH": os.devnull}, timeout=60).stdout
    assert [line.split()[0::2] for line in listed.splitlines()] == [["vggt_ros", "(ros.ament_python)"],
                                                                   ["vggt_ros_msgs", "(ros.ament_cmake)"]]


def test_the_messages_package_is_complete():
    """Every definition is built, what the definitions use is declared, and the versions agree."""
    build, tree = (MESSAGES / "CMakeLists.txt").read_text(), ElementTree.parse(MESSAGES / "package.xml").getroot()
    files = {str(path.relative_to(MESSAGES)) for path in MESSAGES.glob("*/*") if path.suffix != ".xml"}
    assert files and set(re.findall(r'"(\w+/\w+\.\w+)"', build)) == files
    text = "\n".join((MESSAGES / name).read_text() for name in files)
    used = set(re.findall(r"^(\w+)/\w+(?:\[\S*\])? \w+", text, re.MULTILINE)) | {"action_msgs"}
    assert used == {item.text for item in tree.iter("depend")}
    assert used == set(re.search(r"DEPENDENCIES ([\w ]+)", build)[1].split())
    assert tree.findtext("version") == ElementTree.parse(ROOT / "package.xml").getroot().findtext("version")
