"""Points per pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.chunks import KEPT, chunk_size, divisors
from backends.errors import UserError


@pytest.mark.parametrize(
    ("samples", "units", "itemsize", "measured_best"),
    [(10_000, 64, 4, (128, 256)), (10_000, 20, 4, (250, 1000)), (2000, 64, 8, (100, 250))],
)
def test_the_rule_lands_where_chunks_were_measured_to_be_fastest(
    samples: int, units: int, itemsize: int, measured_best: tuple[int, int]
) -> None:
    assert measured_best[0] <= chunk_size(samples, "auto", 4 * units, itemsize, "cpu", False) <= measured_best[1]


def test_a_backend_that_pays_per_call_takes_larger_chunks() -> None:
    assert chunk_size(10_000, "auto", 256, 4, "cpu", True) >= 3 * chunk_size(10_000, "auto", 256, 4, "cpu", False)


def test_small_batches_accelerators_and_prime_numbers_of_points_go_in_one_pass() -> None:
    assert chunk_size(2000, "auto", 80, 4, "cpu", False) == 2000
    assert chunk_size(100_000, "auto", 256, 4, "cuda:0", False) == 100_000
    assert chunk_size(10_007, "auto", 256, 4, "cpu", False) == 10_007
    assert chunk_size(10_000, None, 256, 4, "cpu", False) == 10_000


def test_an_accelerator_takes_passes_where_its_memory_would_not_hold_the_batch() -> None:
    pass_bytes = 256 * 4 * KEPT
    assert chunk_size(10_000, "auto", 256, 4, "cuda:0", False, room=2 * 10_000 * pass_bytes) == 10_000
    assert chunk_size(10_000, "auto", 256, 4, "cuda:0", False, room=2 * 9_999 * pass_bytes) == 5_000
    assert chunk_size(10_000, "auto", 256, 4, "cuda:0", True, room=2 * 700 * pass_bytes) == 625
    assert chunk_size(10_000, "auto", 256, 4, "cuda:0", True, room=1.0) == 1
    assert chunk_size(10_000, None, 256, 4, "cuda:0", True, room=1.0) == 10_000


@given(st.integers(1, 50_000), st.integers(1, 2000), st.sampled_from([4, 8]), st.booleans())
def test_a_chunk_always_divides_the_samples(samples: int, width: int, itemsize: int, per_call: bool) -> None:
    assert samples % chunk_size(samples, "auto", width, itemsize, "cpu", per_call) == 0


@given(st.integers(1, 5000))
def test_divisors_are_all_of_them_in_order(n: int) -> None:
    assert divisors(n) == [d for d in range(1, n + 1) if n % d == 0]


def test_an_asked_chunk_is_taken_and_one_that_does_not_divide_is_answered_with_its_neighbours() -> None:
    assert chunk_size(2000, 500, 80, 4, "cpu", False) == 500
    with pytest.raises(UserError, match=r"300 does not divide the 2000 points of a worker; take 250 or 400"):
        chunk_size(2000, 300, 80, 4, "cpu", False)
    with pytest.raises(UserError, match=r"5000 does not divide .* take 2000, or `auto`"):
        chunk_size(2000, 5000, 80, 4, "cpu", False)
