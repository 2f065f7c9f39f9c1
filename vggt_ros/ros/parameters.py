"""Settings as ROS parameters: described, with ranges, read-only unless they may change while the node runs."""

from __future__ import annotations

from collections.abc import Callable

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from vggt_ros.config import Config
from vggt_ros.settings import ConfigError, Setting


def descriptor(setting: Setting) -> ParameterDescriptor:
    """Return what `ros2 param describe` shows of a setting."""
    unit = f" [{setting.unit}]" if setting.unit else ""
    described = ParameterDescriptor(name=setting.name, description=setting.doc + unit, read_only=not setting.live)
    if setting.choices:
        described.additional_constraints = "one of: " + ", ".join(setting.choices)
    if setting.low is not None and setting.high is not None:
        if isinstance(setting.default, float):
            described.floating_point_range = [FloatingPointRange(from_value=setting.low, to_value=setting.high)]
        else:
            described.integer_range = [IntegerRange(from_value=int(setting.low), to_value=int(setting.high), step=1)]
    return described


def declare(node: Node, default: Config | None = None) -> Config:
    """Declare every setting as a parameter of `node` and return the settings with the values it was started with.

    Raises:
        ConfigError: a value does not fit.
        rclpy.exceptions.InvalidParameterTypeException, InvalidParameterValueException: a value is of another type or
            out of its range; the text names the parameter.

    """
    default = default or Config()
    known = {setting.name for setting, _ in default} | {"use_sim_time"}
    # rclpy has no public way to see values for parameters that nobody declares; a misspelled one would pass unseen.
    for name in getattr(node, "_parameter_overrides", {}):
        if name not in known and not name.startswith("qos_overrides."):
            node.get_logger().warning(f"parameter {name}: there is no such setting")
    values = {setting.name: node.declare_parameter(setting.name, value, descriptor(setting)).value
              for setting, value in default}
    return default.replace(values)


def on_change(node: Node, current: Callable[[], Config], apply: Callable[[Config], None]) -> None:
    """Let live settings change: `apply` gets the new settings, a change that does not fit is refused with the reason.

    Args:
        node: whose parameters they are.
        current: returns the settings in force.
        apply: takes the new ones.

    """
    names = {setting.name for setting, _ in Config()}

    def check(parameters: list[Parameter]) -> SetParametersResult:
        changes = {parameter.name: parameter.value for parameter in parameters if parameter.name in names}
        try:
            if changes:
                apply(current().replace(changes))
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)
