"""A GPU, staged: torch answers as it does where there is one, and computes on the CPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch


def stage_gpu(monkeypatch: pytest.MonkeyPatch, free: float = 8e9, held: float = 0.0, integrated: bool = False,
              capability: tuple[int, int] = (8, 7),
              built_for: tuple[str, ...] = ("sm_80", "sm_87", "compute_90")) -> torch.device:
    """Stage what torch says of a GPU: bytes that are free and held by the allocator, and architectures."""
    properties = SimpleNamespace(is_integrated=integrated, name="staged", total_memory=int(8e9))
    for name, value in {"is_available": lambda: True, "get_device_properties": lambda device=None: properties,
                        "mem_get_info": lambda device=None: (int(free), int(8e9)),
                        "memory_reserved": lambda device=None: int(held),
                        "memory_allocated": lambda device=None: 0, "get_arch_list": lambda: list(built_for),
                        "get_device_name": lambda device=None: "staged", "empty_cache": lambda: None,
                        "get_device_capability": lambda device=None: capability}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr("vggt_ros.reconstruction.gpu_driver.may_have_gpu", lambda: True)
    return torch.device("cuda")
