"""Drives through rendered scenes whose windows go straight into the mapper, without tracking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from vggt_ros.config import Config
from vggt_ros.geometry.poses import Array, umeyama
from vggt_ros.slam import Slam
from vggt_ros.synthetic import OracleNoise, Scene, SceneReconstructor, pinhole
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.solution import Update

SIZE = (320, 240)
VIEW = pinhole(*SIZE)
DRIFT = OracleNoise(scale=0.5, rotation=0.004, translation=0.004, depth=0.02)


@dataclass
class Drive:
    """Keyframes at known poses, in windows of 8 that share 3; no window spans the keyframes before and at a break."""

    scene: Scene
    poses: Array
    pictures: tuple[np.ndarray, ...]
    breaks: tuple[int, ...] = ()
    view: Array = field(default_factory=lambda: VIEW)

    def run(self, oracle: SceneReconstructor, config: Config,
            prepare: Callable[[Slam], None] = lambda slam: None,
            follows_map: bool = False) -> tuple[Slam, list[Update]]:
        """Return the result; the points of the map, which take half of the time, only with `follows_map`."""
        slam, keyframes, updates, has_shared = Slam(config, oracle), [], [], False
        slam.follows_map = follows_map
        prepare(slam)
        for index, image in enumerate(self.pictures):
            if index in self.breaks:
                keyframes, has_shared = [], False
            keyframes.append(Keyframe(index, index * 10**8, image, self.view))
            if len(keyframes) == 8:
                shared = tuple(k.id for k in keyframes[:3]) if has_shared else ()
                updates.append(slam.step(Window(len(updates), tuple(keyframes), shared)))
                keyframes, has_shared = keyframes[-3:], True
        return slam, updates

    def oracle(self, kind: type[SceneReconstructor] = SceneReconstructor, **details: object) -> SceneReconstructor:
        return kind(self.scene, [index * 10**8 for index in range(len(self.poses))], self.poses, **details)

    def error(self, slam: Slam) -> float:
        """Largest error of position over all keyframes after alignment by a similarity, meters."""
        solution = slam.solution
        truth = self.poses[solution.ids][:, :3, 3]
        world_map = umeyama(solution.map_camera[:, :3, 3], truth)
        return float(np.linalg.norm(world_map.apply(solution.map_camera[:, :3, 3]) - truth, axis=1).max())
