#!/usr/bin/env python3
"""Trains vggt_ros/features/vocabulary.npz, the vocabulary for place recognition, on rendered rooms.

Usage: dev/vocabulary.py.
"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from vggt_ros.features.appearance import COMPONENTS, WORDS, root_sift
from vggt_ros.synthetic import laps, pinhole, room

SIZE = (640, 480)


def main() -> None:
    """Train the vocabulary and write the file."""
    parts = []
    for seed in range(4):
        scene = room(seed=seed)
        for camera in laps(40, laps=1.0):
            parts.append(root_sift(scene.render(camera, pinhole(*SIZE), SIZE)[0])[1])
    samples = np.concatenate(parts)
    mean = samples.mean(0)
    axes = np.linalg.svd((samples - mean)[:: max(1, len(samples) // 20000)], full_matrices=False)[2][:COMPONENTS]
    means = faiss.Kmeans(COMPONENTS, WORDS, niter=25, seed=1)
    means.train(np.ascontiguousarray((samples - mean) @ axes.T, np.float32))
    path = Path(__file__).parents[1] / "vggt_ros" / "features" / "vocabulary.npz"
    np.savez_compressed(path, mean=mean.astype(np.float16), components=axes.astype(np.float16),
                        words=means.centroids.astype(np.float16))
    print(f"{path}: {len(samples)} features, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
