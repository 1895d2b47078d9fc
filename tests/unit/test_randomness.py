"""Streams of the host and noise inside the step."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from backends.ops import NumpyOps
from backends.randomness import bits, digest, generator, normal, philox, uniform

OPS = NumpyOps()
LIKE = np.zeros(1)


def jax_ops() -> tuple[Any, Any]:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    from backends.jax.ops import OPS

    return OPS, jax.numpy.asarray


def torch_ops() -> tuple[Any, Any]:
    torch = pytest.importorskip("torch")
    from backends.torch.ops import OPS

    return OPS, torch.as_tensor


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers_of_random123(counter: Any, key: Any, expected: Any) -> None:
    words = philox(tuple(np.array([c]) for c in counter), tuple(np.array([k]) for k in key))
    assert tuple(int(w[0]) for w in words) == expected


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_a_round_on_int64_arrays_equals_the_one_on_pythons_unbounded_integers(a: int, b: int, c: int, k: int) -> None:
    in_arrays = philox(tuple(np.array([x]) for x in (a, b, c, a ^ b)), (np.array([k]), np.array([c])))
    assert tuple(int(w[0]) for w in in_arrays) == philox((a, b, c, a ^ b), (k, c))


def test_a_word_depends_on_its_own_row_and_column_only() -> None:
    whole = bits(OPS, (3, 5), "noise", np.arange(50), 10)
    assert np.array_equal(bits(OPS, (3, 5), "noise", np.arange(50)[::-7], 10), whole[:, ::-7])
    assert np.array_equal(bits(OPS, (3, 5), "noise", np.arange(50), 3), whole[:3])
    z = normal(OPS, (3, 5), "noise", np.arange(50), 9, LIKE)
    assert np.array_equal(normal(OPS, (3, 5), "noise", np.arange(50), 4, LIKE), z[:4])


def test_seed_step_and_stream_each_give_other_numbers() -> None:
    rows = np.arange(100)
    keys = [((0, 0), "a"), ((1, 0), "a"), ((0, 1), "a"), ((0, 0), "b"), ((2**32, 0), "a"), ((-1, 0), "a")]
    drawn = [bits(OPS, key, stream, rows, 4) for key, stream in keys]
    same = [(i, j) for i in range(len(keys)) for j in range(i) if np.mean(drawn[i] == drawn[j]) > 0.01]
    assert same == []


def test_uniform_numbers_pass_a_kolmogorov_smirnov_test_and_do_not_correlate() -> None:
    u = uniform(OPS, (0, 0), "u", np.arange(20000), 4, LIKE)
    assert u.shape == (4, 20000)
    assert u.min() >= 0.0
    assert u.max() < 1.0
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    steps = np.stack([uniform(OPS, (0, s), "u", np.arange(20000), 1, LIKE)[0] for s in range(3)])
    correlation = np.corrcoef(np.concatenate([u, steps[1:]])) - np.eye(6)
    assert np.abs(correlation).max() < 0.03


def test_normal_numbers_have_the_moments_and_the_distribution_of_a_normal() -> None:
    z = normal(OPS, (7, 1), "z", np.arange(30000), 5, LIKE)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert np.allclose([z.mean(), z.var(), stats.skew(z.ravel()), stats.kurtosis(z.ravel())], [0, 1, 0, 0], atol=0.03)
    assert np.abs(np.corrcoef(z) - np.eye(5)).max() < 0.03


def test_float32_holds_the_same_uniform_numbers_as_float64() -> None:
    single = uniform(OPS, (1, 2), "u", np.arange(1000), 3, np.zeros(1, np.float32))
    assert single.dtype == np.float32
    assert np.array_equal(single.astype(np.float64), uniform(OPS, (1, 2), "u", np.arange(1000), 3, LIKE))


@pytest.mark.parametrize("framework", [jax_ops, torch_ops])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_frameworks_draw_the_bits_of_numpy(framework: Any, dtype: Any) -> None:
    ops, put = framework()
    rows, like = np.array([0, 5, 2**31, 2**32 - 1, 17]), np.zeros(1, dtype)
    key = (put(np.int64(2**40 + 3)), put(np.int64(11)))
    u = np.asarray(uniform(ops, key, "u", put(rows), 7, put(like)))
    assert u.dtype == dtype
    assert np.array_equal(u, uniform(OPS, (2**40 + 3, 11), "u", rows, 7, like))
    z = np.asarray(normal(ops, key, "u", put(rows), 7, put(like)))
    assert np.allclose(z, normal(OPS, (2**40 + 3, 11), "u", rows, 7, like), rtol=0, atol=16 * np.finfo(dtype).eps)


def test_compiled_noise_equals_eager_noise() -> None:
    ops, put = jax_ops()
    import jax

    drawn = jax.jit(lambda seed, step, rows: uniform(ops, (seed, step), "u", rows, 5, put(LIKE)))
    assert np.array_equal(drawn(4, 9, np.arange(10)), uniform(OPS, (4, 9), "u", np.arange(10), 5, LIKE))


def test_streams_of_the_host_are_told_apart_by_seed_name_step_and_type() -> None:
    keys = [
        (0, "a"),
        (1, "a"),
        (0, "b"),
        (0, "a", 0),
        (0, "a", 1),
        (0, "a", "1"),
        (0, "a", "b"),
        (0, "ab"),
        (2**63, "a"),
    ]
    drawn = {tuple(generator(*k).integers(0, 2**62, 4)) for k in keys}
    assert len(drawn) == len(keys)
    assert np.array_equal(generator(3, "rows", np.int64(2)).random(5), generator(3, "rows", 2).random(5))


def test_the_same_stream_is_the_same_in_another_process() -> None:
    program = "from backends.randomness import generator as g; print(g(5, 'rows', 3).integers(0, 2**62))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(told) == generator(5, "rows", 3).integers(0, 2**62)


def test_the_names_of_streams_are_hashed_as_written_down_here() -> None:
    # A change of these numbers would change every run that was ever recorded.
    assert digest("rows", 3) == 905815338738733402
    assert generator(5, "rows", 3).integers(0, 2**62) == 4224352871772170258
    assert digest("vae", bits=32) == 3239787241
