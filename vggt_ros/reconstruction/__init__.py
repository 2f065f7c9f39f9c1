"""Reconstructors: estimate the geometry of one window of keyframes; those of this package, and plug-ins.

A `Window` of keyframes goes in: images with intrinsics. A `WindowGeometry` comes out: camera poses, dense depth,
confidence and intrinsics in a frame and scale of their own, or `ReconstructionRefused` with the reason. This package
has one that runs on a CPU, by structure from motion, and one that runs a network on a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from vggt_ros import plugins
from vggt_ros.config import Config
from vggt_ros.reconstruction import gpu_driver
from vggt_ros.reconstruction.base import Reconstructor, ReconstructorUnavailable
from vggt_ros.reconstruction.refined import refined_as_configured
from vggt_ros.reconstruction.splitting import SplittingReconstructor
from vggt_ros.settings import ConfigError
from vggt_ros.windows.keyframe import Keyframe

log = logging.getLogger(__name__)


def create_reconstructor(config: Config, progress: Callable[[str], None] = lambda text: None,
                         separate_process: bool = False, describe: Callable[[Keyframe], Any] | None = None
                         ) -> tuple[Reconstructor, str]:
    """Return the reconstructor selected by the setting `reconstructor`, ready to run, and the reason for the choice.

    `auto` selects the first of this package's that has all that it needs on this machine; nothing is downloaded then.
    The setting `refine` says whether its windows are adjusted to their images.

    Args:
        config: all settings.
        progress: called with the loading progress; an exception that it raises ends the loading.
        separate_process: run it in a process of its own: it then does not delay tracking, and a GPU whose context is
            lost can be used again.
        describe: what else the separate process computes of each keyframe; see `ReconstructorProcess`.

    Raises:
        ConfigError: the reconstructor that is configured cannot run; with `auto`, none can.
        ReconstructorLost: the context of the GPU is lost, or the separate process has ended.

    """
    if separate_process:
        from vggt_ros.reconstruction.process import ReconstructorProcess
        process = ReconstructorProcess(config, create_reconstructor, progress, describe)
        return process, process.reason
    reconstructor, reason = _select(config, progress)
    refined = refined_as_configured(reconstructor, config)
    return refined, reason if refined is reconstructor else f"{reason}; its windows are refined"


def _select(config: Config, progress: Callable[[str], None]) -> tuple[Reconstructor, str]:
    """Return the reconstructor and the reason for the choice; see `create_reconstructor`."""
    if config.reconstructor != "auto":
        try:
            return create(config.reconstructor, config, progress), f"{config.reconstructor}, as configured"
        except ReconstructorUnavailable as error:
            raise ConfigError(f"reconstructor: {config.reconstructor} is configured, but {error}") from error
    unavailable: list[tuple[str, str]] = []
    for name in plugins.AUTOMATIC:
        try:
            if name in plugins.NEED_GPU and not gpu_driver.may_have_gpu():
                raise ReconstructorUnavailable("there is no GPU")
            created = create(name, config, progress, at_once=True)
        except ReconstructorUnavailable as error:
            unavailable.append((name, str(error)))
            continue
        reasons = "; ".join(reason for _, reason in unavailable) or "what it needs is available"
        return created, f"{name}, because {reasons}"
    raise ConfigError("; ".join(f"{name} is not used, because {reason}" for name, reason in unavailable))


def create(name: str, config: Config, progress: Callable[[str], None] = lambda text: None,
           at_once: bool = False) -> Reconstructor:
    """Return a reconstructor, loaded; it splits windows where memory is short, if it says what it needs.

    Args:
        name: under which it is registered.
        config: all settings.
        progress: called with the loading progress.
        at_once: refuse what would have to be downloaded first.

    Raises:
        ReconstructorUnavailable: it cannot run here; the text says why.
        ReconstructorLost: the context of the GPU is lost.

    """
    try:
        kind: Any = plugins.load_class(name)
    except ModuleNotFoundError as error:
        raise ReconstructorUnavailable(f"{name} needs {error.name}, which is not installed (docs/how-to/install.md)") \
            from error
    except (ImportError, AttributeError) as error:
        raise ReconstructorUnavailable(f"{name} cannot be imported: {error}") from error
    if hasattr(kind, "unavailable_reason") and (reason := kind.unavailable_reason(config, at_once)):
        raise ReconstructorUnavailable(reason)
    try:
        reconstructor: Reconstructor = kind(config)
        if hasattr(kind, "load"):
            kind.load(reconstructor, progress, not at_once)
    except ReconstructorUnavailable as error:
        if at_once:
            log.warning("%s has what it needs, but %s; another one is used instead", name, error)
        raise
    return SplittingReconstructor(reconstructor, config) if hasattr(kind, "needed_bytes") else reconstructor
