"""check: what holds on this machine and what does not, each with its cure; torch is imported only if it is there."""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from vggt_ros.config import Config
from vggt_ros.sequences.sequence import SequenceError
from vggt_ros.settings import ConfigError

GREEN, YELLOW, RED = "green", "yellow", "red"
_REQUIRED = {"numpy": "1.26", "opencv-python-headless": "4.10", "gtsam": "4.2"}
_FOR_VGGT = {"torch": "2.3", "safetensors": "0.4", "huggingface_hub": "0.25"}
_MODULES = {"opencv-python-headless": "cv2"}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: of the check.
        level: green (it holds), yellow (it works, but worse than it could) or red (it does not).
        text: what was found.
        cure: what to do about it; empty if it is green.
        figures: the numbers, for the JSON file.
        checked: False if this machine does not allow the check, or only a part of it; the text says why.

    """

    name: str
    level: str
    text: str
    cure: str = ""
    figures: dict[str, object] = field(default_factory=dict)
    checked: bool = True


def run_checks(config: Config, images: Path | None = None) -> Iterator[Finding]:
    """Yield the findings of all checks, in the order in which they are made; one that fails does not stop the others.

    Args:
        config: the settings that the node would have.
        images: a folder of images for the comparison of VGGT with multiview; None for a rendered window.

    """
    yield from guarded("versions", check_versions)
    loaded = None
    if missing := [name for name in _FOR_VGGT if not _version(name)]:
        yield Finding("VGGT", RED if config.reconstructor == "vggt" else YELLOW,
                      f"not checked, because {', '.join(missing)} must be installed for it",
                      f"pip install {' '.join(missing)}, if this machine has an NVIDIA GPU (docs/how-to/install.md); "
                      "else reconstructor: multiview", checked=False)
    else:
        vggt = importlib.import_module("vggt_ros.benchmarks.check.vggt").VggtCheck(config)
        for name, check in (("GPU", vggt.gpu), ("attention kernel", vggt.attention), ("compiler", vggt.compiler),
                            ("parity", vggt.parity), ("weights", vggt.weights), ("memory", vggt.memory),
                            ("speed", vggt.speed)):
            yield from guarded(name, check)
        loaded = vggt.loaded
    window = importlib.import_module("vggt_ros.benchmarks.check.window")
    yield from guarded("window", lambda: window.check_window(config, loaded, images))


def check_versions() -> Iterator[Finding]:
    """Yield one finding for all packages; those of VGGT may be missing."""
    found, wrong, missing = {}, [], []
    for name, least in {**_REQUIRED, **_FOR_VGGT}.items():
        found[name] = _version(name)
        if not found[name]:
            missing.append(name)
        elif found[name] != "unknown" and _numbers(found[name]) < _numbers(least):
            wrong.append(f"{name} {found[name]}, needed is {least}")
    text = f"Python {platform.python_version()}, " + ", ".join(f"{name} {one or '-'}" for name, one in found.items())
    needed = [name for name in missing if name in _REQUIRED]
    if wrong or needed:
        yield Finding("versions", RED, f"{text}; {'; '.join([*wrong, *(f'{name} is missing' for name in needed)])}",
                      "pip install -U " + " ".join([*(one.split()[0] for one in wrong), *needed]), dict(found))
    else:
        yield Finding("versions", GREEN, text, figures=dict(found))


def worst(findings: list[Finding]) -> str:
    """Return the worst level of some findings."""
    return max((finding.level for finding in findings), key=(GREEN, YELLOW, RED).index, default=GREEN)


def _version(name: str) -> str:
    """Return the version of a package; `unknown` if it is not from pip, empty if it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown" if find_spec(_MODULES.get(name, name)) is not None else ""


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds; an error that it does not expect is a finding, too."""
    try:
        yield from check()
    except (ConfigError, SequenceError):  # of the arguments
        raise
    except Exception as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "")
        yield Finding(name, RED, f"the check failed with {type(error).__name__}: {line}",
                      "please report it, with the output of this command")
