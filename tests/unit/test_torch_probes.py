"""Answers about the processor are remembered, the good ones only."""

from __future__ import annotations

from pathlib import Path

from backends.torch.probes import remembered


def test_a_library_that_loads_is_probed_once_and_one_that_does_not_each_time(tmp_path: Path):
    asked: list[str] = []

    def probe(isa: object, library: str) -> bool:
        asked.append(library)
        return library.endswith("good.so")

    loads = remembered(probe)
    good, bad = str(tmp_path / "good.so"), str(tmp_path / "bad.so")
    assert [loads(None, good), loads(None, good), loads(None, bad), loads(None, bad)] == [True, True, False, False]
    assert asked == [good, bad, bad]
