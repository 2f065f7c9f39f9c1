"""Reconstructors: the images of a window in, its geometry out."""

from __future__ import annotations

from importlib.util import find_spec

from vggt_ros.config import Config, ConfigError
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.reconstruction.multiview import Multiview


def create_reconstructor(config: Config) -> tuple[Reconstructor, str]:
    """Return the reconstructor that the setting `reconstructor` names, and why it is this one.

    `auto` takes vggt where it can run at once, with a GPU and weights on disk; only `vggt` downloads weights.

    Raises:
        ConfigError: `vggt` is asked for and cannot run.

    """
    if config.reconstructor == "multiview":
        return Multiview(config), "multiview, as set"
    # torch is gigabytes, and nothing else needs it.
    lacking = "torch is not installed" if find_spec("torch") is None else ""
    if not lacking:
        from vggt_ros.reconstruction.vggt.availability import missing
        lacking = missing(config.vggt, at_once=config.reconstructor == "auto")
    if not lacking:
        from vggt_ros.reconstruction.vggt.reconstructor import Vggt
        why = "as set" if config.reconstructor == "vggt" else "since there are a GPU and weights"
        return Vggt(config), f"vggt, {why}"
    if config.reconstructor == "vggt":
        raise ConfigError(f"reconstructor: vggt is asked for, but {lacking}")
    return Multiview(config), f"multiview, since {lacking}"
