"""The linters of ROS, where they are installed; ruff checks the same and more everywhere.

Not tried on a ROS installation: flake8 and pydocstyle themselves were run with these settings, not ament's wrappers.
"""

import shutil

import pytest
from paths import ROOT

CODE = [str(ROOT / name) for name in ("vggt_ros", "launch")]
PEP257_IGNORED = ["D105", "D107", "D205", "D401", "D402", "D413", "D415", "D417"]
"""As in pyproject.toml; and D402, which mistakes a call in the text for a signature, and
D415, which requires summaries of one line."""


def linter(name: str):
    return pytest.importorskip(f"{name}.main", reason=f"{name} comes with ROS, not from PyPI")


@pytest.mark.linter
def test_flake8():
    paths = [*CODE, str(ROOT / "test"), str(ROOT / "setup.py")]
    status, errors = linter("ament_flake8").main_with_errors(argv=["--config", str(ROOT / "setup.cfg"), *paths])
    assert status == 0, "\n".join(errors)


@pytest.mark.linter
def test_pep257():
    arguments = [*CODE, "--convention", "google", "--add-ignore", *PEP257_IGNORED]
    assert linter("ament_pep257").main(argv=arguments) == 0


@pytest.mark.linter
def test_package_xml():
    xmllint = linter("ament_xmllint")
    if shutil.which("xmllint") is None:
        pytest.skip("xmllint is not installed (libxml2-utils)")
    assert xmllint.main(argv=[str(ROOT / "package.xml")]) == 0
