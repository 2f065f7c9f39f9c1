"""Settings: defaults, ranges, and errors that name the setting and what is expected."""

import math

import pytest

from vggt_ros.config import Config
from vggt_ros.settings import ConfigError


def test_every_setting_is_described_and_its_default_is_valid():
    """A description that is a sentence, a default in range, a unique name."""
    names = [setting.name for setting, _ in Config()]
    assert len(names) == len(set(names)) > 30
    for setting, value in Config():
        assert setting.check(value) == setting.default
        assert setting.doc.endswith(".")
        assert setting.unit or not isinstance(setting.default, float) or setting.high is not None


def test_assignments_on_a_command_line():
    """Values are parsed by the setting's type; all others keep their default."""
    config = Config().parse(["windows.size=10", "keyframes.min_parallax=30", "reconstructor=multiview", "seed=7"])
    assert (config.windows.size, config.keyframes.min_parallax) == (10, 30.0)
    assert (config.reconstructor, config.seed) == ("multiview", 7)
    assert config.windows.overlap == Config().windows.overlap


@pytest.mark.parametrize(("assignment", "message"), [
    ("windows.size", "expected key=value"),
    ("windows.sise=8", "windows.sise: no such setting"),
    ("windows.size=eight", "windows.size: expected int, got 'eight'"),
    ("windows.size=2", r"windows.size: 2 is outside \[3, 64\]"),
    ("keyframes.min_parallax=nan", "keyframes.min_parallax: nan is not finite"),
    ("keyframes.min_survival=2", r"keyframes.min_survival: 2.0 is outside \[0.1, 0.95\] fraction"),
    ("reconstructor=colmap", "reconstructor: 'colmap' is none of auto, vggt, multiview"),
    ("tf.map_frame=odom", "tf.map_frame, tf.odom_frame, tf.base_frame: 'odom', 'odom', 'base_link' must be"),
    ("tf.odom_frame=", "tf.odom_frame"), ("tf.base_frame=/base_link", "none of which begins with /"),
    ("map.name=/home/me/maps/yard", "'/home/me/maps/yard' does not name a folder inside map.folder, ~/.ros/vggt_maps"),
    ("map.name=../yard", "map.name: "), ("map.name=", "map.name: "), ("map.name=yard\n", "map.name: "),
    ("map.name= ", "map.name: "), ("map.name=.hidden", "map.name: "),
    ("windows.overlap=8", "windows.overlap: 8 must be less than windows.size, 8"),
])
def test_invalid_settings_are_rejected_by_name(assignment, message):
    """The text names the setting, the value, and what is expected."""
    with pytest.raises(ConfigError, match=message):
        Config().parse([assignment])


def test_types_are_not_converted():
    """A bool is not a number and a number is not a text, but an integer may be given for a float."""
    assert Config().replace({"keyframes.min_parallax": 20}).keyframes.min_parallax == 20.0
    for name, value in (("windows.size", True), ("windows.size", 8.0), ("tf.map_frame", 3), ("seed", None),
                        ("keyframes.min_parallax", math.inf)):
        with pytest.raises(ConfigError, match=name):
            Config().replace({name: value})
