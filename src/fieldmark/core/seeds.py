"""One seed in, named generators out.

Each use of chance has a name ("composites", "probe") and draws from a stream of its own, so that
adding a draw in one place changes nothing in another, and a resumed run draws what the
uninterrupted one would have.
"""

from __future__ import annotations

import hashlib

import numpy as np


def _sequence(seed: int, names: tuple[object, ...]) -> np.random.SeedSequence:
    words = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    return np.random.SeedSequence([seed, *np.frombuffer(words, np.uint32).tolist()])


def generator(seed: int, *names: object) -> np.random.Generator:
    """Return the numpy generator of a named stream.

    Args:
        seed: the one seed of the run, 0 or more.
        names: what the stream is for, for example `"composites", epoch`.

    Example:
        >>> generator(0, "probe").integers(100) == generator(0, "probe").integers(100)
        np.True_
    """
    return np.random.default_rng(_sequence(seed, names))


def derive_seed(seed: int, *names: object) -> int:
    """Return an integer seed in [0, 2**63) of a named stream, for libraries that want a number.

    Example:
        >>> derive_seed(0, "a") != derive_seed(0, "b")
        True
    """
    return int(_sequence(seed, names).generate_state(1, np.uint64)[0] >> 1)
