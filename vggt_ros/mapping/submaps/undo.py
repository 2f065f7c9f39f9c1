"""A window that fails half way leaves the map as it was.

Keyframes that were added, but got no pose in the graph, would make each later window fail that shares one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vggt_ros.mapping.submaps.atlas import Atlas


@contextmanager
def undone_on_error(atlas: Atlas) -> Iterator[None]:
    """Forget the keyframes, and the submap, that the body adds to an atlas if it raises an exception."""
    before = atlas.keyframes.copy(), atlas.current_submap, atlas.metric
    with atlas.graph.undone_on_error():
        try:
            yield
        except Exception:
            atlas.keyframes, atlas.current_submap, atlas.metric = before
            raise
