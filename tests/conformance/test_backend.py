"""Both backends pass the conformance suite, alone and against each other."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import backends
from backends import testing
from backends.errors import MissingBackend
from backends.testing.pairs import check_a_state_crosses_over


def module(name: str) -> ModuleType:
    try:
        return backends.load(name)
    except MissingBackend as missing:
        pytest.skip(str(missing))


def title(check: Any) -> str:
    return check.__name__.removeprefix("check_") if callable(check) else str(check)


@pytest.mark.parametrize("name", backends.NAMES)
@pytest.mark.parametrize("check", testing.CHECKS, ids=title)
def test_the_backend_passes(check: Callable[..., None], name: str):
    check(module(name))


@pytest.mark.parametrize("check", testing.PAIRS, ids=title)
def test_both_backends_agree(check: Callable[..., None]):
    check(module("jax"), module("torch"))


COMPILED = ("equal_arrays_stay_apart", "first_order_updates", "nobody_writes_into_the_callers_arrays")


@pytest.mark.parametrize("check", [c for c in testing.CHECKS if title(c) in COMPILED], ids=title)
def test_torch_passes_compiled_too(check: Callable[..., None]):
    check(module("torch"), compile="always")


@pytest.mark.parametrize("check", [c for c in testing.CHECKS if title(c) in COMPILED], ids=title)
def test_jax_passes_without_compilation_too(check: Callable[..., None]):
    check(module("jax"), compile="never")


def test_a_state_of_torch_goes_on_in_jax():
    check_a_state_crosses_over(module("torch"), module("jax"))
