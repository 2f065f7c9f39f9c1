"""Settings as ROS parameters, with descriptions and ranges; read-only unless they may change while the node runs."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from vggt_ros.config import Config
from vggt_ros.ros.common.parameter_files import without_parameters
from vggt_ros.settings import ConfigError, Setting, unknown_setting


def descriptor(setting: Setting) -> ParameterDescriptor:
    """Return the descriptor of a setting, as shown by `ros2 param describe`."""
    unit = f" [{setting.unit}]" if setting.unit else ""
    result = ParameterDescriptor(name=setting.name, description=setting.doc + unit, read_only=not setting.live)
    if setting.choices:
        result.additional_constraints = "one of: " + ", ".join(setting.choices)
    if setting.low is not None and setting.high is not None:
        if isinstance(setting.default, float):
            result.floating_point_range = [FloatingPointRange(from_value=setting.low, to_value=setting.high)]
        else:
            result.integer_range = [IntegerRange(from_value=int(setting.low), to_value=int(setting.high), step=1)]
    return result


def declare(node: Node) -> Config:
    """Declare every setting as a parameter of `node`; return the settings with the values given at startup.

    Raises:
        ConfigError: a value is invalid.
        rclpy.exceptions.InvalidParameterTypeException, InvalidParameterValueException: a value is of another type or
            out of its range; the text names the parameter.

    """
    default = Config()
    known = {setting.name for setting, _ in default} | {"use_sim_time"}
    # rclpy has no public access to values of undeclared parameters; a misspelled name would go unnoticed.
    overrides = getattr(node, "_parameter_overrides", {})
    for name in overrides:
        if name not in known and not name.startswith("qos_overrides."):
            node.get_logger().warning(f"parameter {unknown_setting(name, known)}")
    for setting, _ in default:
        if setting.name in overrides:
            overrides[setting.name] = _as_meant(overrides[setting.name], setting)
    for line in without_parameters(sys.argv, node.get_fully_qualified_name()):
        node.get_logger().warning(line)
    values = {setting.name: node.declare_parameter(setting.name, value, descriptor(setting)).value
              for setting, value in default}
    return default.replace(values)


def _as_meant(given: Parameter, setting: Setting) -> Parameter:
    """Return a parameter of the type of the setting where YAML sees another: a whole number as real, `on` as text.

    `camera.fov: 80` is a whole number to ROS, which takes none for a real one, and `refine: on` is a boolean.
    """
    if isinstance(setting.default, float) and given.type_ == Parameter.Type.INTEGER:
        return Parameter(setting.name, Parameter.Type.DOUBLE, float(given.value))
    words = ("true", "on") if given.value else ("false", "off")
    if given.type_ == Parameter.Type.BOOL and (meant := next((w for w in words if w in setting.choices), None)):
        return Parameter(setting.name, Parameter.Type.STRING, meant)
    return given


def on_change(node: Node, current: Callable[[], Config], apply: Callable[[Config], None]) -> None:
    """Allow changes of live settings: `apply` gets the new settings; an invalid change is refused with the reason.

    Args:
        node: the node with the parameters.
        current: returns the current settings.
        apply: called with the new settings.

    """
    settings = {setting.name: setting for setting, _ in Config()}

    def check(parameters: list[Parameter]) -> SetParametersResult:
        changes = {parameter.name: parameter.value for parameter in parameters if parameter.name in settings}
        try:
            if changes:
                apply(current().replace(changes))
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)
    if hasattr(node, "add_pre_set_parameters_callback"):  # since Iron
        node.add_pre_set_parameters_callback(lambda given: [
            _as_meant(one, settings[one.name]) if one.name in settings else one for one in given])
