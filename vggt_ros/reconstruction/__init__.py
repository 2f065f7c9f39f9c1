"""From the images of a window to its geometry: the network, or structure from motion on the CPU."""

from __future__ import annotations

from importlib.util import find_spec

from vggt_ros.config import Config, ConfigError
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.reconstruction.multiview import Multiview

VGGT = "vggt_ros.reconstruction.vggt"


def create_reconstructor(config: Config) -> tuple[Reconstructor, str]:
    """Return the reconstructor that the setting `reconstructor` names, and why it is this one.

    Raises:
        ConfigError: `vggt` is asked for and not available.

    """
    if config.reconstructor == "multiview":
        return Multiview(config), "multiview, as set"
    if find_spec(VGGT) is None or find_spec(f"{VGGT}.reconstructor") is None:
        if config.reconstructor == "vggt":
            raise ConfigError("reconstructor: vggt is not part of this version; set multiview or auto")
        return Multiview(config), "multiview, since vggt is not part of this version"
    raise ConfigError("reconstructor: vggt cannot be chosen yet; set multiview")
