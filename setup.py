"""Installs vggt_ros: as an ament_python package by colcon, or by pip without ROS."""

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

NAME = "vggt_ros"
ROS_EXECUTABLES = [
    "slam_node = vggt_ros.ros.node.start:main",
    "bag_player = vggt_ros.cli.main:executable",
    "view = vggt_ros.cli.main:executable",
    "reconstruction_server = vggt_ros.cli.main:executable",
    "replay = vggt_ros.cli.main:executable",
    "evaluate = vggt_ros.cli.main:executable",
    "export = vggt_ros.cli.main:executable",
    "merge = vggt_ros.cli.main:executable",
    "benchmark = vggt_ros.cli.main:executable",
    "reconstruct = vggt_ros.cli.main:executable",
    "parity = vggt_ros.cli.main:executable",
    "check = vggt_ros.cli.main:executable",
]
"""Found by `ros2 run` in lib/vggt_ros, where setup.cfg puts them; pip would put them onto the user's path."""
RECONSTRUCTORS = {
    "vggt_ros.reconstructors": ["vggt = vggt_ros.reconstruction.vggt.reconstructor:Vggt",
                                "multiview = vggt_ros.reconstruction.multiview.reconstructor:Multiview",
                                "da3 = vggt_ros.reconstruction.da3.reconstructor:Da3",
                                "remote = vggt_ros.ros.remote.reconstructor:Remote"],
    "vggt_ros.reconstructor_settings": ["vggt = vggt_ros.reconstruction.vggt.settings:VggtConfig",
                                        "multiview = vggt_ros.reconstruction.multiview.settings:MultiviewConfig",
                                        "da3 = vggt_ros.reconstruction.da3.settings:Da3Config",
                                        "remote = vggt_ros.reconstruction.remote_settings:RemoteConfig"],
}
"""As other packages register theirs; the same as in vggt_ros/plugins.py."""
BY_PIP = not {"bdist_wheel", "editable_wheel", "dist_info"}.isdisjoint(sys.argv)
"""pip builds a wheel, colcon and the build farm call `install` or `develop`."""
REQUIREMENTS = re.findall(r"^[\w-].*?(?=\s{2,}#|$)", Path("requirements.txt").read_text(), re.MULTILINE)
VIEW = ["rerun-sdk>=0.32"]  # the viewer of `replay --view` and `view`: 170 MB, so not on a robot that needs none
CLUSTER = ["ray>=2.9"]  # workers on other machines, for `replay --ray`; the same as in requirements-cluster.txt
VGGT = ["torch>=2.3", "safetensors>=0.4", "huggingface_hub>=0.25"]

setup(
    name=NAME,
    version="0.1.0",
    description="Dense monocular SLAM for ROS 2",
    license="Apache-2.0",
    maintainer="vggt_ros maintainers",
    maintainer_email="vggt-ros@users.noreply.github.com",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={f"{NAME}.features": ["vocabulary.npz"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml", "requirements.txt", "requirements-da3.txt"]),
        *((f"share/{NAME}/{folder}", sorted(str(path) for path in Path(folder).iterdir() if path.is_file()))
          for folder in ("launch", "config")),
    ],
    python_requires=">=3.10",
    install_requires=REQUIREMENTS if BY_PIP else ["setuptools"],
    extras_require={"vggt": VGGT, "view": VIEW, "cluster": CLUSTER, "test": ["pytest"]},
    zip_safe=True,
    entry_points={"console_scripts": ["vggt_ros = vggt_ros.cli.main:main", *([] if BY_PIP else ROS_EXECUTABLES)],
                  **RECONSTRUCTORS},
)
