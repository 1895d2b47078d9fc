"""Dispatches end at every event and at the end of every stage, whatever happened before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.stages import Adam, Lbfgs, Sgd
from orchestrator.timeline import Position, Timeline, due, periods

STAGES = (Adam(name="a", steps=130), Sgd(name="b", steps=70), Lbfgs(name="c", steps=5))


def walk(timeline: Timeline, at: Position) -> list[Position]:
    seen = []
    while not timeline.over(at):
        at = timeline.after(at, timeline.dispatch(at))
        seen.append(at)
    return seen


@given(events=st.lists(st.integers(1, 90), max_size=4), capacity=st.integers(1, 200))
def test_every_step_is_done_once_and_no_event_is_passed_over(events: list[int], capacity: int):
    timeline = Timeline(STAGES, periods(events), capacity)
    seen = walk(timeline, Position())
    steps = [p.step for p in seen]
    assert steps[-1] == timeline.total == 205
    assert steps == sorted(set(steps))
    assert {130, 200} <= set(steps), "stages end at dispatch boundaries"
    assert all(s in steps for e in events for s in range(e, 205, e))
    assert all(b - a <= capacity for a, b in zip([0, *steps], steps, strict=False))


@given(st.integers(0, 8))
def test_a_resumed_run_takes_the_same_dispatches(stop_after: int):
    timeline = Timeline(STAGES, (40, 25), 100)
    whole = walk(timeline, Position())
    at = whole[min(stop_after, len(whole) - 2)]
    assert walk(timeline, at) == whole[whole.index(at) + 1 :]


def test_a_stage_that_can_not_go_on_hands_over_to_the_next():
    timeline = Timeline(STAGES, ())
    assert timeline.after(Position(130, 1, 0), 10, ended=True) == Position(140, 2, 0)
    last = timeline.after(Position(200, 2, 0), 3, ended=True)
    assert last.step == 203
    assert timeline.over(last)


def test_nothing_is_due_without_a_period():
    assert not due(10, None)
    assert due(10, 5)
    assert not due(11, 5)
