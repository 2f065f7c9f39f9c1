"""A setting: default, unit, range and a one-line description, stored in the metadata of a dataclass field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

Value = bool | int | float | str


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range; the text names it and says what is expected."""


@dataclass(frozen=True)
class Setting:
    """The declaration of a setting: everything but its value."""

    name: str
    default: Value
    doc: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    """True if the setting may be changed while the node runs."""

    def check(self, value: Any) -> Value:
        """Return `value` converted to this setting's type.

        Raises:
            ConfigError: wrong type, not finite, out of range, or not one of the choices.

        """
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not kind:
            raise ConfigError(f"{self.name}: expected {kind.__name__}, got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{self.name}: {value} is not finite")
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.name}: {value!r} is none of {', '.join(self.choices)}")
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if not isinstance(value, str) and not low <= value <= high:
            raise ConfigError(f"{self.name}: {value} is outside [{self.low}, {self.high}] {self.unit}".rstrip())
        return value

    def parse(self, text: str) -> Value:
        """Return the value of a command line `text`; raises ConfigError as `check` does."""
        kind = type(self.default)
        if kind is bool:
            if text.lower() not in ("true", "false"):
                raise ConfigError(f"{self.name}: expected true or false, got {text!r}")
            return text.lower() == "true"
        try:
            return self.check(kind(text))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{self.name}: expected {kind.__name__}, got {text!r}") from error


def setting(default: Any, doc: str, **details: Any) -> Any:
    """Return a dataclass field with the metadata of `Setting`; `choices` may be a function that returns them."""
    return field(default=default, metadata={"doc": doc, **details})


def is_map_name(name: str) -> bool:
    """Return whether a name is that of a folder inside another one: printable, and no part of it is hidden or `..`."""
    parts = name.rstrip("/").split("/")
    return name.isprintable() and all(part and part == part.strip() and not part.startswith(".") for part in parts)


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """Return an error that names the settings that may be meant, or all that there are."""
    known = list(known)
    alike = get_close_matches(name, known, 3) or [one for one in known if one.rpartition(".")[2] == name]
    return f"{name}: no such setting; " + (f"is {' or '.join(alike)} meant?" if alike else
                                           f"there are {', '.join(known)}")


def walk(group: Any, prefix: str = "") -> Iterator[tuple[Setting, Value]]:
    """Yield every setting of a dataclass with its value, in the order of definition.

    Dataclasses may be nested; a mapping holds more of them under its keys, beside the others.
    """
    for item in dataclasses.fields(group):
        value = getattr(group, item.name)
        if isinstance(value, Mapping):
            for name, more in value.items():
                yield from walk(more, f"{prefix}{name}.")
        elif dataclasses.is_dataclass(value):
            yield from walk(value, f"{prefix}{item.name}.")
        else:
            default: Any = item.default
            details = dict(item.metadata)
            if callable(details.get("choices")):
                details["choices"] = details["choices"]()
            yield Setting(prefix + item.name, default, **details), value
