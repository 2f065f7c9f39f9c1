"""check --reconstructor: whether a reconstructor keeps to what the pipeline relies on, on a rendered scene."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from vggt_ros import plugins
from vggt_ros.benchmarks.check.conformance_geometry import (
    RenderedWindow,
    check_confidence,
    check_depth,
    check_intrinsics,
    check_poses,
    check_uncertainty,
)
from vggt_ros.benchmarks.check.machine import GREEN, RED, YELLOW, Finding, guarded
from vggt_ros.config import Config
from vggt_ros.geometry.camera import Rectifier
from vggt_ros.reconstruction import create, create_reconstructor
from vggt_ros.reconstruction.base import (
    ReconstructionRefused,
    Reconstructor,
    ReconstructorUnavailable,
    WindowGeometry,
)
from vggt_ros.settings import walk
from vggt_ros.windows.keyframe import Keyframe, Window

_CONTRACT = "see docs/how-to/own-reconstructor.md"


def check_reconstructor(config: Config) -> Iterator[Finding]:
    """Yield what was found about the reconstructor that `config.reconstructor` names; nothing is downloaded."""
    name = config.reconstructor
    yield from guarded("registration", lambda: _registration(config))
    began = time.perf_counter()
    try:
        reconstructor = create(name, config, at_once=True)
    except ReconstructorUnavailable as error:
        yield Finding("creation", RED, f"it cannot run on this machine: {error}", "see the message")
        return
    except Exception as error:
        yield Finding("creation", RED, f"{name}(config) failed with {type(error).__name__}: {error}", _CONTRACT)
        return
    yield Finding("creation", GREEN, f"created and loaded in {time.perf_counter() - began:.1f} s")
    scene = RenderedWindow()
    try:
        window = _window(scene, reconstructor)
        if hasattr(reconstructor, "prepare"):
            reconstructor.prepare(*window.keyframes[0].image.shape[1::-1], lambda text: None)
        geometry = reconstructor.reconstruct(window)
    except Exception as error:
        yield Finding("window", RED, f"eight images of a rendered room gave {type(error).__name__}: {error}",
                      "the room has texture, parallax and overlap: it has to be solved")
        return
    yield Finding("window", GREEN, f"{len(geometry.keyframe_ids)} of {len(window.keyframes)} keyframes of "
                  f"{window.keyframes[0].image.shape[1]}x{window.keyframes[0].image.shape[0]} pixels are placed")
    for check in (check_poses, check_intrinsics, check_depth, check_confidence, check_uncertainty):
        yield from guarded(check.__name__.removeprefix("check_"), partial(check, geometry, scene, config))
    yield from guarded("repetition", lambda: _repetition(reconstructor, window, geometry))
    yield from guarded("refusals", lambda: _refusals(reconstructor, window))
    yield from guarded("process", lambda: _process(config, window, geometry))
    yield from guarded("end", lambda: _end(reconstructor))


def _registration(config: Config) -> Iterator[Finding]:
    """Tell where the reconstructor comes from, and which settings it has."""
    name = config.reconstructor
    settings = config.reconstructors.get(name)
    count = 0 if settings is None else len(list(walk(settings)))
    kind = plugins.load_class(name)
    text = f"{kind.__module__}.{kind.__qualname__} of {plugins.origin(name)}, {count} settings"
    if getattr(kind, "name", name) != name:
        yield Finding("registration", RED, f"{text}; its name is {kind.name!r}", f"set its attribute name to {name!r}")
    else:
        yield Finding("registration", GREEN, text)


def _window(scene: RenderedWindow, reconstructor: Reconstructor) -> Window:
    """Return the rendered window, rectified to the size that the reconstructor asks for."""
    size = reconstructor.image_size(scene.camera)
    if len(size) != 2 or any(not isinstance(side, int | np.integer) or side < 1 for side in size):
        raise ValueError(f"image_size returned {size!r}, not width and height in pixels")
    rectify = Rectifier(scene.camera, (int(size[0]), int(size[1])), True)
    return Window(0, tuple(Keyframe(100 + i, i * 10**8, np.ascontiguousarray(rectify(image)), rectify.intrinsics)
                           for i, image in enumerate(scene.images)))


def _repetition(reconstructor: Reconstructor, window: Window, first: WindowGeometry) -> Iterator[Finding]:
    """Solve the window again: results must not change afterwards, images must not be touched; tell the time."""
    before = [zlib.crc32(keyframe.image.tobytes()) for keyframe in window.keyframes]
    sums = zlib.crc32(first.depth.tobytes()), zlib.crc32(first.window_camera.tobytes())
    began = time.perf_counter()
    again = reconstructor.reconstruct(replace(window, id=1))
    seconds = time.perf_counter() - began
    figures: dict[str, object] = {"seconds": seconds}
    text = f"{seconds:.2f} s for {len(window.keyframes)} images"
    if before != [zlib.crc32(keyframe.image.tobytes()) for keyframe in window.keyframes]:
        yield Finding("repetition", RED, f"{text}; the images of the window were changed", "work on a copy", figures)
    elif sums != (zlib.crc32(first.depth.tobytes()), zlib.crc32(first.window_camera.tobytes())):
        yield Finding("repetition", RED, f"{text}; the result of the first window was changed by the second",
                      "return copies of arrays that are used again", figures)
    elif first.keyframe_ids != again.keyframe_ids or not np.array_equal(first.depth, again.depth, equal_nan=True):
        yield Finding("repetition", YELLOW, f"{text}; the same window gave another result: runs cannot be repeated",
                      "seed random numbers with config.seed", figures)
    else:
        yield Finding("repetition", GREEN, f"{text}; the same window gives the same result", figures=figures)


def _refusals(reconstructor: Reconstructor, window: Window) -> Iterator[Finding]:
    """Give it windows that cannot be solved: it has to refuse them with a reason, and to go on."""
    still = [replace(keyframe, image=window.keyframes[0].image) for keyframe in window.keyframes]
    black = [replace(keyframe, image=np.zeros_like(keyframe.image)) for keyframe in window.keyframes]
    told, accepted = [], []
    for number, (what, keyframes) in enumerate({"a camera that stands still": still, "black images": black,
                                                "one image": window.keyframes[:1]}.items()):
        renamed = tuple(replace(keyframe, id=1000 * (number + 1) + keyframe.id) for keyframe in keyframes)
        try:
            reconstructor.reconstruct(Window(10 + number, renamed))
        except ReconstructionRefused as refusal:
            if str(refusal):
                told.append(f"{what}: {refusal}")
                continue
            yield Finding("refusals", RED, f"{what}: refused without a reason", "give ReconstructionRefused a text")
            return
        except Exception as error:
            yield Finding("refusals", RED, f"{what}: {type(error).__name__}: {error}",
                          "raise ReconstructionRefused with the reason: anything else counts as a fault")
            return
        accepted.append(what)
    if accepted:
        yield Finding("refusals", YELLOW, f"not refused: {', '.join(accepted)}; the map gets what was made up there",
                      "raise ReconstructionRefused where parallax or texture is missing")
    else:
        yield Finding("refusals", GREEN, "; ".join(told))


def _process(config: Config, window: Window, geometry: WindowGeometry) -> Iterator[Finding]:
    """Run it in a process of its own, as the node does."""
    made, _ = create_reconstructor(config.replace({"refine": "off"}), separate_process=True)
    try:
        there = made.reconstruct(window)
    finally:
        made.close()  # type: ignore[attr-defined]
    same = np.array_equal(there.depth, geometry.depth, equal_nan=True)
    yield Finding("process", GREEN, "it runs in a process of its own, with "
                  + ("the same result" if same else "another result"))


def _end(reconstructor: Reconstructor) -> Iterator[Finding]:
    """Close it, if it can be closed."""
    if not hasattr(reconstructor, "close"):
        yield Finding("end", GREEN, "it has nothing to close")
        return
    reconstructor.close()
    yield Finding("end", GREEN, "closed")
