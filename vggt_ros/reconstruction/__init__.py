"""Reconstructors: the images of a window in, its geometry out."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from vggt_ros.config import Config
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.settings import ConfigError


def create_reconstructor(config: Config, progress: Callable[[str], None] = lambda text: None,
                         apart: bool = False) -> tuple[Reconstructor, str]:
    """Return the reconstructor that the setting `reconstructor` names, ready to run, and why it is this one.

    `auto` takes vggt where it can run at once, with a GPU and weights on disk; only `vggt` downloads weights.

    Args:
        config: all settings.
        progress: told how far the loading is; what it raises ends it.
        apart: give multiview a process of its own, for those who track at the same time.

    Raises:
        ConfigError: `vggt` is asked for and cannot run, its weights do not load, or pycolmap is missing for multiview.

    """
    if config.reconstructor == "multiview":
        return _multiview(config, apart), "multiview, as set"
    # torch is gigabytes, and nothing else needs it.
    lacking = "torch is not installed" if find_spec("torch") is None else ""
    if not lacking:
        from vggt_ros.reconstruction.vggt.availability import missing
        lacking = missing(config.vggt, at_once=config.reconstructor == "auto")
    if not lacking:
        from vggt_ros.reconstruction.vggt.reconstructor import Vggt
        from vggt_ros.reconstruction.vggt.weights import WeightsError
        why = "as set" if config.reconstructor == "vggt" else "since there are a GPU and weights"
        try:
            vggt = Vggt(config)
            vggt.load(progress, download=config.reconstructor == "vggt")
            return vggt, f"vggt, {why}"
        except WeightsError as error:
            raise ConfigError(str(error)) from error
    if config.reconstructor == "vggt":
        raise ConfigError(f"reconstructor: vggt is asked for, but {lacking}")
    return _multiview(config, apart), f"multiview, since {lacking}"


def _multiview(config: Config, apart: bool) -> Reconstructor:
    # pycolmap has no wheel for Linux on ARM; there VGGT must run without it.
    if find_spec("pycolmap") is None:
        raise ConfigError("multiview needs pycolmap, which is not installed (docs/how-to/install.md)")
    if apart:
        from vggt_ros.reconstruction.process import MultiviewProcess
        return MultiviewProcess(config)
    from vggt_ros.reconstruction.multiview import Multiview
    return Multiview(config)
