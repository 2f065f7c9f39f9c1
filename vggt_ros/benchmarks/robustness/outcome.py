"""What one part of the benchmark found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """The figures of one part, and what is wrong.

    Attributes:
        name: what was done.
        count: how often.
        figures: what was measured, by name.
        faults: what must not happen, and did; at most `MAX_FAULTS` texts are kept.
        fault_count: how often such a thing happened.

    """

    MAX_FAULTS = 20

    name: str
    count: float
    figures: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    fault_count: int = 0

    def fault(self, text: str) -> None:
        """Note a fault."""
        self.fault_count += 1
        if len(self.faults) < self.MAX_FAULTS:
            self.faults.append(text)

    def require(self, holds: bool, text: str) -> None:
        """Note the fault `text` unless `holds`."""
        if not holds:
            self.fault(text)
