"""A choice of views that together see all parts of an image, rather than of those that are best by themselves."""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry.poses import Array


def complementary(quality: Array, count: int, enough: float, least_gain: float = 0.0) -> list[int]:
    """Return the rows of at most `count` views, one after the other for what each adds to those before it.

    The best ones by themselves may all miss the same part of the image. Of those that add as much, the first is taken.

    Args:
        quality: (m, n), what each view is worth for each of n parts of the image.
        count: most views that are chosen.
        enough: sum of the qualities for a part that is worth twice what is added.
        least_gain: views that add less are left out.

    """
    total, chosen = np.full(quality.shape[1], enough), list[int]()
    for _ in range(min(count, len(quality))):
        gain = np.log1p(quality / total).sum(1)
        gain[chosen] = -1
        best = int(gain.argmax())
        if gain[best] < least_gain:
            break
        chosen.append(best)
        total += quality[best]
    return chosen
