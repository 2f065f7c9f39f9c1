#!/usr/bin/env python3
"""A reconstructor of one's own: windows of an RGB-D camera by PnP. Usage: own_reconstructor.py [IMAGES].

Whatever turns the images of a window into poses and depth can take the place of VGGT: a class with a name, the size of
the images that it needs, and `reconstruct`. This one places each keyframe against the one before it, by the depth of
the sensor. It runs on a rendered room, whose depth is exact.
"""

import sys

import cv2
import numpy as np

from vggt_ros import Config
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import inverse, pose
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.replay.run import run
from vggt_ros.synthetic import RenderedSequence, laps, room


class RgbdReconstructor:
    """Poses of a window's keyframes by ORB matches and depth, in meters."""

    name = "rgbd"

    def __init__(self, depths):
        """Take stamp to depth image (H, W), meters."""
        self.depths, self.orb = depths, cv2.ORB_create(1000)
        self.matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)

    def image_size(self, camera):
        """Return the size of the depth images."""
        return camera.width, camera.height

    def reconstruct(self, window):
        """Return poses, depth and a confidence that falls with distance."""
        found = [self.orb.detectAndCompute(keyframe.image, None) for keyframe in window.keyframes]
        depth = np.array([self.depths[keyframe.stamp] for keyframe in window.keyframes])
        window_camera = [np.eye(4)]
        for i, keyframe in enumerate(window.keyframes[1:], 1):
            (before, looks_before), (now, looks_now) = found[i - 1], found[i]
            matches = self.matcher.match(looks_before, looks_now)
            seen_before = np.array([before[m.queryIdx].pt for m in matches])
            seen_now = np.array([now[m.trainIdx].pt for m in matches])
            z = depth[i - 1][tuple(np.rint(seen_before[:, ::-1]).astype(int).T)]
            points = pixel_rays(keyframe.intrinsics, *seen_before.T) * z[:, None]
            good, turn, shift, inliers = cv2.solvePnPRansac(points, seen_now, keyframe.intrinsics, None,
                                                             reprojectionError=2.0, iterationsCount=300)
            if not good or len(inliers) < 30:
                raise ReconstructionRefused(f"keyframe {keyframe.id} has too few matches with the one before it")
            now_before = pose(cv2.Rodrigues(turn)[0], shift[:, 0])
            window_camera.append(window_camera[-1] @ inverse(now_before))
        small = depth[:, ::2, ::2]
        intrinsics = np.array([keyframe.intrinsics for keyframe in window.keyframes])
        intrinsics[:, :2] /= 2
        ranks = np.argsort(np.argsort(-small, axis=None)).reshape(small.shape) / small.size
        confidence = np.where(np.isnan(small), 0, ranks).astype(np.float32)
        return WindowGeometry(window.ids, np.array(window_camera), intrinsics, small, confidence, metric=True)


count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
sequence = RenderedSequence("room", room(), laps(count, laps=count / 200), (320, 240))
result = run(sequence, Config(), RgbdReconstructor(dict(sequence.depths())), progress=True)
accuracy = result.accuracy(with_scale=False)
print(f"{len(result.slam.solution)} keyframes, scale {result.slam.solution.metric.state}")
print(f"ATE RMSE {accuracy.ate_rmse:.3f} m over {accuracy.path:.1f} m, without alignment of scale")
