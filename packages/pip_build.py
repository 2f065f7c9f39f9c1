"""Lets pip build the package from the root of the repository, where no setup.py may be: colcon would look no further.

A build backend (PEP 517): that of setuptools, in the folder of the package.
"""

import os
from pathlib import Path

from setuptools.build_meta import *  # noqa: F403

os.chdir(Path(__file__).parent / "vggt_ros")
