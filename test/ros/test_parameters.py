"""Settings as ROS parameters, on a real node."""


import pytest

rclpy = pytest.importorskip("rclpy", reason="needs rclpy")
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from vggt_ros.config import Config
from vggt_ros.ros.common import parameters


@pytest.fixture(scope="module")
def context():
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


@pytest.fixture
def make(context):
    nodes = []

    def make_node(**overrides):
        values = [Parameter(name.replace("__", "."), value=value) for name, value in overrides.items()]
        nodes.append(Node("parameters", context=context, parameter_overrides=values))
        return nodes[-1]

    yield make_node
    for node in nodes:
        node.destroy_node()


def test_every_setting_is_a_parameter_with_its_default_range_and_unit(make):
    node = make()
    assert list(parameters.declare(node)) == list(Config())
    for setting, value in Config():
        assert node.get_parameter(setting.name).value == value
        described = node.describe_parameter(setting.name)
        assert setting.doc in described.description
        assert setting.unit in described.description
        assert described.read_only is not setting.live
        limits = [*described.floating_point_range, *described.integer_range]
        assert [(limit.from_value, limit.to_value) for limit in limits] == (
            [] if setting.low is None else [(setting.low, setting.high)])
        assert all(choice in described.additional_constraints for choice in setting.choices)


def test_values_given_at_startup_are_used(make):
    config = parameters.declare(make(windows__size=6, tf__mode="none", camera__fov=90.0))
    assert (config.windows.size, config.tf.mode, config.camera.fov) == (6, "none", 90.0)


@pytest.mark.parametrize(("name", "given", "meant"), [
    ("camera.rectified", True, "true"), ("camera.rectified", False, "false"), ("refine", True, "on"),
    ("refine", False, "off")])
def test_words_that_yaml_takes_for_booleans_are_what_they_mean(make, name, given, meant):
    """`refine: on` in a parameter file."""
    config = parameters.declare(make(**{name.replace(".", "__"): given}))
    assert dict((setting.name, value) for setting, value in config)[name] == meant


@pytest.mark.parametrize(("overrides", "error", "name"), [
    ({"tf__mode": True}, InvalidParameterTypeException, "tf.mode"),
    ({"windows__size": 1000}, InvalidParameterValueException, "windows.size"),
    ({"windows__size": "many"}, InvalidParameterTypeException, "windows.size"),
    ({"tf__mode": "sideways"}, ValueError, "tf.mode"),
    ({"windows__overlap": 8}, ValueError, "windows.overlap"),
])
def test_the_error_names_an_invalid_parameter(make, overrides, error, name):
    with pytest.raises(error, match=name):
        parameters.declare(make(**overrides))


def test_only_live_settings_change_while_the_node_runs(make):
    node = make()
    current = [parameters.declare(node)]
    parameters.on_change(node, lambda: current[-1], current.append)
    live = next(setting for setting, _ in Config() if setting.live and setting.name == "map.name")
    fixed = next(setting for setting, _ in Config() if not setting.live and setting.default == 8)
    assert node.set_parameters([Parameter(live.name, value="other")])[0].successful
    assert dict((setting.name, value) for setting, value in current[-1])[live.name] == "other"
    assert not node.set_parameters([Parameter(fixed.name, value=9)])[0].successful
    assert node.get_parameter(fixed.name).value == 8
    assert len(current) == 2


@pytest.mark.skipif(not hasattr(Node, "add_pre_set_parameters_callback"), reason="ROS before Iron has no such callback")
def test_a_whole_number_is_a_real_one_while_the_node_runs_too(make):
    """`ros2 param set /vggt_slam map.max_depth 5`: its type is that of a whole number."""
    node = make()
    current = [parameters.declare(node)]
    parameters.on_change(node, lambda: current[-1], current.append)
    assert node.set_parameters([Parameter("map.max_depth", value=5)])[0].successful
    assert current[-1].map.max_depth == 5.0
    assert not node.set_parameters([Parameter("map.max_depth", value="deep")])[0].successful
