"""Both backends pass the conformance suite, alone and against each other."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import backends
from backends import testing
from backends.errors import MissingBackend


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


@pytest.mark.parametrize(("one", "other"), [("jax", "torch"), ("torch", "jax")])
@pytest.mark.parametrize("check", testing.PAIRS, ids=title)
def test_both_backends_agree(check: Callable[..., None], one: str, other: str):
    check(module(one), module(other))
