"""Runs side by side: what differs in their settings, what came out, and a report that one can hand on.

`orchestrator.compare(runs)` and the verb `compare` are the same thing.
"""

from __future__ import annotations

from orchestrator.comparison.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
