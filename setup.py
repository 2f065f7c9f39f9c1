"""Installs vggt_ros as an ament_python package."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "vggt_ros"

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
        (f"share/{NAME}", ["package.xml", "requirements.txt"]),
        *((f"share/{NAME}/{folder}", sorted(str(path) for path in Path(folder).iterdir() if path.is_file()))
          for folder in ("launch", "config")),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "slam_node = vggt_ros.ros.slam_node:main",
            "bag_player = vggt_ros.ros.bag_player:main",
            "replay = vggt_ros.cli.replay:main",
            "evaluate = vggt_ros.cli.evaluate:main",
            "export = vggt_ros.cli.export:main",
            "benchmark = vggt_ros.cli.benchmark:main",
            "parity = vggt_ros.cli.parity:main",
        ],
    },
)
