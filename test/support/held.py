"""What an object holds in memory that nobody reads: arrays of which only a view is left."""

from __future__ import annotations

import gc
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

_APART = (type, ModuleType, FunctionType, MethodType)


def arrays(root: Any) -> list[np.ndarray]:
    """Return all arrays that can be reached from an object, views among them."""
    seen, waiting, found = {id(root)}, [root], []
    while waiting:
        one = waiting.pop()
        if isinstance(one, np.ndarray):
            found.append(one)
            continue
        for other in gc.get_referents(one):
            if id(other) not in seen and not isinstance(other, _APART):
                seen.add(id(other))
                waiting.append(other)
    return found


def held_in_vain(root: Any) -> dict[tuple[int, ...], int]:
    """Return the shapes of arrays that are alive only because views of less than half of them are, and their bytes."""
    owners, read = {}, {}
    for array in arrays(root):
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        owners[id(owner)] = owner
        read[id(owner)] = read.get(id(owner), 0) + array.nbytes
    found: dict[tuple[int, ...], int] = {}
    for key, owner in owners.items():
        if 2 * read[key] < owner.nbytes:
            found[owner.shape] = found.get(owner.shape, 0) + owner.nbytes - read[key]
    return found
