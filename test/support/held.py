"""Memory that an object keeps without using it: large arrays of which only small views are used."""

from __future__ import annotations

import gc
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

_NOT_FOLLOWED = (type, ModuleType, FunctionType, MethodType)


def reachable_arrays(root: Any) -> list[np.ndarray]:
    """Return all arrays that can be reached from an object, views included."""
    seen, queue, found = {id(root)}, [root], []
    while queue:
        one = queue.pop()
        if isinstance(one, np.ndarray):
            found.append(one)
            continue
        for other in gc.get_referents(one):
            if id(other) not in seen and not isinstance(other, _NOT_FOLLOWED):
                seen.add(id(other))
                queue.append(other)
    return found


def arrays_kept_by_small_views(root: Any) -> dict[tuple[int, ...], int]:
    """Return the shapes of arrays of which views use less than half, and how many bytes no view uses."""
    owners, used = {}, {}
    for array in reachable_arrays(root):
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        owners[id(owner)] = owner
        used[id(owner)] = used.get(id(owner), 0) + array.nbytes
    found: dict[tuple[int, ...], int] = {}
    for key, owner in owners.items():
        if 2 * used[key] < owner.nbytes:
            found[owner.shape] = found.get(owner.shape, 0) + owner.nbytes - used[key]
    return found
