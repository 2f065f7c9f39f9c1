"""Which reconstructors there are: those of this package, and those that other packages register as entry points.

A package registers a class in the group `vggt_ros.reconstructors`, and, if it has settings, a dataclass of them under
the same name in `vggt_ros.reconstructor_settings`. The dataclass is imported at every start and must import nothing
heavy; the class is imported only when it is selected.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from vggt_ros.settings import ConfigError

log = logging.getLogger(__name__)
CLASSES, SETTINGS = "vggt_ros.reconstructors", "vggt_ros.reconstructor_settings"
"""Groups of entry points."""
BUILT_IN = {
    "vggt": ("vggt_ros.reconstruction.vggt.reconstructor:Vggt", "vggt_ros.reconstruction.vggt.settings:VggtConfig"),
    "multiview": ("vggt_ros.reconstruction.multiview.reconstructor:Multiview",
                  "vggt_ros.reconstruction.multiview.settings:MultiviewConfig"),
    "da3": ("vggt_ros.reconstruction.da3.reconstructor:Da3", "vggt_ros.reconstruction.da3.settings:Da3Config"),
    "remote": ("vggt_ros.ros.remote.reconstructor:Remote", "vggt_ros.reconstruction.remote_settings:RemoteConfig"),
}
"""Name to class and settings of those of this package, in the order in which `auto` tries them.

`setup.py` registers the same as entry points. This table serves a checkout, which nobody has installed.
"""
NEED_GPU = ("vggt",)
"""Those that `auto` uses only on a GPU."""
AUTOMATIC = tuple(name for name in BUILT_IN if name != "remote")
"""Those that `auto` tries; a server on another machine has to be asked for."""


@functools.cache
def _registered(group: str) -> dict[str, EntryPoint]:
    """Return name to entry point of a group; those of this package first, others by name.

    Raises:
        ConfigError: two packages register different objects under the same name.

    """
    found = {name: EntryPoint(name, targets[group == SETTINGS], group) for name, targets in BUILT_IN.items()}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        known = found.setdefault(point.name, point)
        if known.value != point.value:
            raise ConfigError(f"two packages register a reconstructor {point.name!r}, {known.value} and {point.value}: "
                              "uninstall one of them")
    return found


def names() -> tuple[str, ...]:
    """Return the names of all reconstructors; nothing of them is imported."""
    return tuple(_registered(CLASSES))


def origin(name: str) -> str:
    """Return the package that registers a reconstructor, with its version."""
    point = _registered(CLASSES)[name]
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "vggt_ros"


def load_class(name: str) -> Any:
    """Return the class of a reconstructor; raises whatever its import raises."""
    return _load(_registered(CLASSES)[name])


def forget() -> None:
    """Look again which packages are installed, for tests."""
    _registered.cache_clear()
    default_settings.cache_clear()


@functools.cache
def default_settings() -> Mapping[str, Any]:
    """Return name to settings with their defaults, of all reconstructors that have any.

    Settings of another package that cannot be imported, or are none, are left out with a warning: the reconstructor can
    still be selected, and says then what is wrong.
    """
    found = {}
    for name, point in _registered(SETTINGS).items():
        try:
            found[name] = _checked(name, _load(point)())
        except Exception as error:
            if name in BUILT_IN:
                raise
            log.warning("the settings of the reconstructor %s (%s) cannot be used: %s: %s", name, point.value,
                        type(error).__name__, error)
    return found


def _load(point: EntryPoint) -> Any:
    """Return what an entry point names."""
    return functools.reduce(getattr, point.attr.split("."), importlib.import_module(point.module))


def _checked(name: str, settings: Any) -> Any:
    """Return settings if they are what `vggt_ros.settings` describes; raises ConfigError."""
    if not dataclasses.is_dataclass(settings) or not getattr(settings, "__dataclass_params__").frozen:  # noqa: B009
        raise ConfigError(f"{name}: the settings are no frozen dataclass")
    for item in dataclasses.fields(settings):
        if "doc" not in item.metadata or type(item.default) not in (bool, int, float, str):
            raise ConfigError(f"{name}.{item.name}: declare it by vggt_ros.settings.setting(default, doc, ...), with a "
                              "bool, int, float or str")
    return settings
