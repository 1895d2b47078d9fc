"""What a second-order stage did is told in a sentence when it ends."""

from __future__ import annotations

import numpy as np

from backends.protocol import Steps
from backends.quasi import COUNTS
from orchestrator import tally


def steps(*rows: tuple[int, int, int, int], ended: str = "") -> Steps:
    n = len(rows)
    counts = dict(zip(COUNTS, np.array(rows, np.float64).T, strict=True))
    return Steps(np.zeros((n, 1)), np.ones(n, np.bool_), np.ones(n, np.int64), ended, counts)


def test_a_stage_says_why_it_ended_and_how_often_it_fell_back() -> None:
    done = steps((1, 2, 0, 0), (2, 5, 1, 2), ended="line search stalled")
    assert tally.ending(done, 2, over=True) == (
        "line search stalled; 2 iterations, 5 evaluations, fell back 3 times (1 direction without descent, "
        "2 without a lower loss)"
    )
    assert tally.ending(done, 1, over=True) == "line search stalled; 1 iteration, 2 evaluations"
    assert tally.ending(steps((4, 9, 0, 0)), 1, over=True) == "all its steps are done; 4 iterations, 9 evaluations"


def test_a_stage_that_goes_on_or_does_not_count_says_nothing() -> None:
    assert tally.ending(steps((4, 9, 0, 0)), 1, over=False) == ""
    plain = Steps(np.zeros((1, 1)), np.ones(1, np.bool_), np.ones(1, np.int64))
    assert tally.ending(plain, 1, over=True) == tally.of(plain, 1) == ""
