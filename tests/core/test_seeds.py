"""Named streams of chance."""

from __future__ import annotations

from fieldmark.core.seeds import derive_seed, generator


def test_streams_repeat_and_differ_by_name_and_seed():
    first = generator(0, "composites", 3).integers(2**40, size=4).tolist()
    assert generator(0, "composites", 3).integers(2**40, size=4).tolist() == first
    others = [
        (0, ("composites", 4)),
        (1, ("composites", 3)),
        (0, ("order", 3)),
        (0, ("composites3",)),
    ]
    for seed, names in others:
        assert generator(seed, *names).integers(2**40, size=4).tolist() != first


def test_derived_seeds_fit_every_library():
    seeds = {derive_seed(0, "probe", i) for i in range(100)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
