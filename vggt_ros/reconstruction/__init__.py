"""Reconstructors: estimate the geometry of one window of keyframes, by structure from motion (multiview) or by VGGT.

A `Window` of keyframes goes in: images with intrinsics. A `WindowGeometry` comes out: camera poses, dense depth,
confidence and intrinsics in a frame and scale of their own, or `ReconstructionRefused` with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec

from vggt_ros.config import Config
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.reconstruction.refined import RefinedReconstructor
from vggt_ros.settings import ConfigError

log = logging.getLogger(__name__)


def create_reconstructor(config: Config, progress: Callable[[str], None] = lambda text: None,
                         separate_process: bool = False) -> tuple[Reconstructor, str]:
    """Return the reconstructor selected by the setting `reconstructor`, ready to run, and the reason for the choice.

    `auto` selects vggt if a GPU and weights on disk are available, and memory and GPU suffice, else multiview; only
    `vggt` downloads weights. The setting `refine` says whether its windows are adjusted to their images.

    Args:
        config: all settings.
        progress: called with the loading progress; an exception that it raises ends the loading.
        separate_process: run it in a process of its own: it then does not delay tracking, and a GPU whose context is
            lost can be used again.

    Raises:
        ConfigError: `vggt` is configured and cannot run, its weights do not load, or multiview lacks pycolmap.
        ReconstructorLost: the context of the GPU is lost, or the separate process has ended.

    """
    if separate_process:
        from vggt_ros.reconstruction.process import ReconstructorProcess
        process = ReconstructorProcess(config, create_reconstructor, progress)
        return process, process.reason
    reconstructor, reason = _create(config, progress)
    adjusted = getattr(reconstructor, "adjusted", False)
    if config.refine == "off" or (config.refine == "auto" and adjusted):
        return reconstructor, reason
    return RefinedReconstructor(reconstructor), f"{reason}; its windows are refined"


def _create(config: Config, progress: Callable[[str], None]) -> tuple[Reconstructor, str]:
    """Return the reconstructor and the reason for the choice; see `create_reconstructor`."""
    if config.reconstructor == "multiview":
        return _multiview(config), "multiview, as configured"
    # torch is not imported unless it is needed: it takes gigabytes.
    unavailable = "torch is not installed" if find_spec("torch") is None else ""
    if not unavailable:
        from vggt_ros.reconstruction.vggt.availability import unavailable_reason
        unavailable = unavailable_reason(config.vggt, at_once=config.reconstructor == "auto")
    if not unavailable:
        from vggt_ros.reconstruction.vggt.device_errors import DeviceUnsuitable
        from vggt_ros.reconstruction.vggt.reconstructor import Vggt
        from vggt_ros.reconstruction.vggt.weight_files import WeightsError
        reason = "as configured" if config.reconstructor == "vggt" else "because a GPU and weights are available"
        try:
            vggt = Vggt(config)
            vggt.load(progress, download=config.reconstructor == "vggt")
            return vggt, f"vggt, {reason}"
        except (WeightsError, DeviceUnsuitable) as error:
            if config.reconstructor == "vggt":
                raise ConfigError(str(error)) from error
            unavailable = str(error)
            log.warning("a GPU and weights are there, but %s; multiview is used instead", unavailable)
    if config.reconstructor == "vggt":
        raise ConfigError(f"reconstructor: vggt is configured, but {unavailable}")
    try:
        return _multiview(config), f"multiview, because {unavailable}"
    except ConfigError as error:
        raise ConfigError(f"vggt is not used, because {unavailable}; {error}") from error


def _multiview(config: Config) -> Reconstructor:
    # pycolmap has no wheel for Linux on ARM, where VGGT must run without it.
    if find_spec("pycolmap") is None:
        raise ConfigError("multiview needs pycolmap, which is not installed (docs/how-to/install.md)")
    from vggt_ros.reconstruction.multiview import Multiview
    return Multiview(config)
