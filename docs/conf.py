"""Sphinx configuration; `./dev/docs` builds the documentation into out/docs."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vggt_ros import __version__  # noqa: E402

project = "vggt_ros"
author = "vggt_ros contributors"
copyright = "vggt_ros contributors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "sphinx_rtd_theme"  # the theme of docs.ros.org: rosdoc2 has it too
html_theme_options = {"navigation_depth": 3}
html_show_sourcelink = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3  # links such as page.md#heading are checked

# Docstrings put names and formulas into single backticks.
default_role = "code"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True  # attributes that a class lists in its docstring are not documented twice
napoleon_attr_annotations = False  # types are in the signature
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
# NumPy and OpenCV are imported; ROS, torch, gtsam and the like are not needed to read docstrings.
autodoc_mock_imports = ["gtsam", "matplotlib", "rclpy", "rosbags", "tf2_ros",
                        "threadpoolctl", "torch", "tqdm"]


def split_names(app, what, name, obj, options, lines):
    """Give each of several names in one line, `first, second: text`, a line of its own: Sphinx knows no lists there."""
    found, entry = [], []
    for line in [*lines, ""]:
        more = line.startswith(" " * (len(entry[0]) - len(entry[0].lstrip()) + 1)) if entry else False
        if entry and not more:
            names, colon, text = entry[0].partition(":")
            indent = names[:len(names) - len(names.lstrip())]
            found += [row for each in names.split(",") for row in (indent + each.strip() + colon + text, *entry[1:])]
            entry = []
        if more or re.match(r" +\w+(, \w+)+: ", line):
            entry.append(line)
        else:
            found.append(line)
    lines[:] = found[:-1]


def shorten_arrays(app, what, name, obj, options, signature, returned):
    """Write the types of arrays as the source does: NDArray[float64]."""
    array = re.compile(r"~?(?:numpy\.)?ndarray\[tuple\[~?(?:typing\.)?Any, \.\.\.\], "
                       r"~?(?:numpy\.)?dtype\[~?(?:numpy\.)?(\w+)\]\]")
    return tuple(text and array.sub(r"NDArray[\1]", text) for text in (signature, returned))


def setup(app):
    """Connect what is above; names are split before napoleon reads the docstrings."""
    app.connect("autodoc-process-docstring", split_names, priority=400)
    app.connect("autodoc-process-signature", shorten_arrays)
