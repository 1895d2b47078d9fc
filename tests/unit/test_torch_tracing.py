"""Recorded functions: what they may do, what they must not mix up, and what happens where they can't be compiled."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from backends.torch import tracing
from backends.torch.tracing import Functions


def record(fn: Any, *example: Any, compiled: bool = False) -> tuple[Any, list[str]]:
    messages: list[str] = []
    return Functions(messages.append).get("f", (), fn, example, torch.float64, compiled), messages


def square_slope(x: Any) -> Any:
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    return torch.autograd.grad(slope.sum(), x)[0]


def test_autograd_happens_while_recording() -> None:
    f, messages = record(square_slope, torch.ones(3))
    x = torch.tensor([1.0, 2.0, 3.0])
    assert torch.allclose(f(x), 6 * x) and not f(x).requires_grad and messages == []


def test_one_tensor_in_two_arguments_stays_two_arguments() -> None:
    x = torch.ones(3)
    f, _ = record(lambda a, b: a - 2 * b["c"], x, {"c": x})
    assert torch.equal(f(torch.ones(3), {"c": torch.zeros(3)}), torch.ones(3))


def test_arguments_are_written_in_place_and_the_example_is_left_alone() -> None:
    def count(a: Any) -> Any:
        a["n"].add_(1)
        return ()

    example = {"n": torch.zeros(2)}
    f, _ = record(count, example)
    state = {"n": torch.zeros(2)}
    for _ in range(3):
        f(state)
    assert state["n"].tolist() == [3, 3] and example["n"].tolist() == [0, 0]


def test_a_function_is_recorded_once_per_shape() -> None:
    functions = Functions(print)
    for n in (3, 3, 4, 3):
        functions.get("f", (), lambda x: x + 1, (torch.ones(n),), torch.float64, False)
    assert functions.counts == {"f": 2}


def test_tensors_made_from_nothing_have_the_stages_type() -> None:
    f, _ = record(lambda x: x + torch.full((1,), 0.1), torch.zeros(1, dtype=torch.float64))
    assert f(torch.zeros(1, dtype=torch.float64)).item() == 0.1
    assert torch.get_default_dtype() == torch.float32


def test_random_operations_are_noticed_and_not_compiled() -> None:
    f, messages = record(lambda x: x + torch.rand_like(x), torch.zeros(3), compiled=True)
    torch.manual_seed(1)
    one = f(torch.zeros(3))
    torch.manual_seed(1)
    assert f.draws and torch.equal(one, f(torch.zeros(3))) and not torch.equal(one, f(torch.zeros(3)))
    assert len(messages) == 1 and "draws random numbers" in messages[0]


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_draws_of_python_and_numpy_are_not_frozen_into_the_graph(draw: Any) -> None:
    f, messages = record(lambda x: x + draw(), torch.zeros(1))
    assert f(torch.zeros(1)) != f(torch.zeros(1))
    assert len(messages) == 1 and "will not repeat its numbers" in messages[0]


def test_what_can_not_be_recorded_runs_as_it_is_written() -> None:
    f, messages = record(lambda x: 2 * x if float(x.sum()) > 0 else -x, torch.ones(2))
    assert f(torch.ones(2)).tolist() == [2, 2] and f(-torch.ones(2)).tolist() == [1, 1]
    assert len(messages) == 1 and "can't be recorded" in messages[0]


def test_a_mistake_in_the_function_is_its_own_exception() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        record(lambda x: x @ torch.ones(4, 4), torch.ones(2, 3))


def test_without_a_compiler_it_runs_uncompiled_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(graph: Any, flat: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(tracing, "standalone", fails)
    monkeypatch.setattr(tracing, "compiler_works", lambda: False)
    messages: list[str] = []
    functions = Functions(messages.append)
    for name in ("f", "g"):
        f = functions.get(name, name, square_slope, (torch.ones(3),), torch.float32, True)
        assert f(torch.ones(3)).tolist() == [6, 6, 6]
    assert len(messages) == 1 and "no C++ compiler" in messages[0]


def test_inductor_itself_says_when_there_is_no_compiler() -> None:
    from torch._inductor import config, cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    with config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        assert not tracing.compiler_works()
    cpp_builder.cpp_compiler_search.cache_clear()


def test_a_compiled_function_gives_what_the_graph_gives() -> None:
    if not tracing.compiler_works():
        pytest.skip("no C++ compiler")

    def step(x: Any, out: Any) -> Any:
        out.copy_(torch.tanh(x) * 2)
        x.add_(1)
        return out.sum()

    f, messages = record(step, torch.ones(3), torch.zeros(3), compiled=True)
    x, out = torch.zeros(3), torch.zeros(3)
    total = [float(f(x, out)) for _ in range(2)]
    assert messages == [] and x.tolist() == [2, 2, 2]
    assert np.allclose(out.numpy(), 2 * np.tanh(1)) and np.allclose(total, [0, 6 * np.tanh(1)])


def test_equal_identities_share_functions_and_tell_everybody_about_them() -> None:
    def fn(x: Any) -> Any:
        return x + torch.rand_like(x)

    told: list[list[str]] = []
    for identity in ("this", "this", "that", None, None):
        told.append([])
        functions = Functions(
            told[-1].append,
            identity and (test_equal_identities_share_functions_and_tell_everybody_about_them, identity),
        )
        functions.get("f", (), fn, (torch.ones(3),), torch.float32, True)
        told[-1].append(str(functions.counts["f"]))
    assert [messages[-1] for messages in told] == ["1", "0", "1", "1", "1"]
    assert all(len(messages) == 2 for messages in told)
