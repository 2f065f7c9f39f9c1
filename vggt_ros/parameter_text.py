"""Settings as text: the parameter file of the node, and tables in Markdown; of all, or of one reconstructor."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator

from vggt_ros import plugins
from vggt_ros.config import Config
from vggt_ros.settings import Setting, Value, walk

_HEADER = """\
/**:
  ros__parameters:
"""
_TABLE = "| parameter | default | range | meaning |\n|---|---|---|---|\n"


def own_settings(config: Config) -> list[tuple[Setting, Value]]:
    """Return every setting of this package with its value: none of plug-ins, which other machines do not have."""
    others = set(plugins.names()) - plugins.BUILT_IN.keys()
    return [(dataclasses.replace(setting, choices=tuple(one for one in setting.choices if one not in others)), value)
            for setting, value in config if setting.name.partition(".")[0] not in others]


def reconstructor_settings(config: Config, name: str) -> list[tuple[Setting, Value]]:
    """Return the settings of a reconstructor with their values; none if it has none."""
    return list(walk(config.reconstructors[name], f"{name}.")) if name in config.reconstructors else []


def parameter_file(settings: list[tuple[Setting, Value]]) -> str:
    """Return the text of a parameter file, with a comment for each setting."""
    text, previous = _HEADER, ""
    for setting, value in settings:
        group, _, name = setting.name.rpartition(".")
        if group != previous:
            text += f"\n    {group}:\n"
            previous = group
        indent = "      " if group else "    "
        comment = " ".join([setting.doc, _limits(setting)]).strip()
        text += textwrap.fill(comment, 118, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ") + "\n"
        text += f"{indent}{name}: {_yaml_scalar(value)}\n"
    return text


def tables(config: Config, settings: list[tuple[Setting, Value]]) -> Iterator[str]:
    """Yield a section in Markdown for each group of settings: heading, what it is, table."""
    text, previous = "", None
    for setting, value in settings:
        group = setting.name.rpartition(".")[0]
        if group != previous:
            if text:
                yield text
            text = f"## {f'`{group}`' if group else 'General'}\n\n"
            if group:
                of_group = config.reconstructors.get(group) or getattr(config, group)
                text += f"{type(of_group).__doc__}\n\n"
            text += _TABLE
            previous = group
        default = f"`{_markdown_value(value)}`" if value != "" else ""
        meaning = f"{setting.doc} *Live.*" if setting.live else setting.doc
        known = setting.choices or (("true", "false") if isinstance(value, bool) else ())
        allowed = ", ".join(f"`{choice}`" for choice in known) or _range(setting)
        text += f"| `{setting.name}` | {default} | {allowed} | {meaning} |\n"
    if text:
        yield text


def _markdown_value(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _range(setting: Setting) -> str:
    if setting.low is not None and setting.high is not None:
        return f"{_number(setting.low)} to {_number(setting.high)} {setting.unit}".rstrip()
    return ", ".join(setting.choices)


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:g}"


def _limits(setting: Setting) -> str:
    parts = [_range(setting), "may change while the node runs" if setting.live else ""]
    return f"({'; '.join(filter(None, parts))})" if any(parts) else ""


def _yaml_scalar(value: Value) -> str:
    """Return a YAML scalar that is read with the same type: `true` in quotes is a string."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value)
