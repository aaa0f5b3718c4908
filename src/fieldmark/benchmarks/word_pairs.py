"""Words for objects and for places that they are seen in, and pairs of them (BAP A.2).

The paper takes 5,000 pairs "that frequently appear as spurious correlations in vision benchmarks"
and lists one ("bird"-"swamp"). Ours are every pair of 100 objects and 50 places, in our own choice.
"""

from __future__ import annotations

import itertools

from fieldmark.core.seeds import generator

_OBJECTS = """
bird duck gull heron pelican penguin owl sparrow woodpecker eagle swan goose crane cow horse sheep
goat pig camel dog cat wolf fox bear deer moose rabbit squirrel mouse lion tiger leopard elephant
giraffe zebra monkey kangaroo koala panda seal whale dolphin shark fish turtle frog snake lizard
crocodile crab spider butterfly bee boat ship canoe car bus truck train tractor bicycle motorcycle
airplane helicopter balloon skateboard surfboard snowboard tent umbrella bench chair table sofa
bed lamp vase bottle cup plate spoon knife guitar piano drum violin book laptop keyboard phone
camera backpack suitcase hat shoe man woman child flower
"""
_PLACES = """
forest jungle swamp marsh lake pond river waterfall ocean beach coast island harbour desert canyon
mountain glacier snow iceberg cave meadow field farm pasture vineyard garden park sky cloud street
alley highway bridge railway station airport city village castle church kitchen bedroom bathroom
office classroom library gym stadium stage supermarket
"""
OBJECTS, PLACES = tuple(_OBJECTS.split()), tuple(_PLACES.split())


def draw_word_pairs(count: int, *, seed: int = 0) -> tuple[tuple[str, str], ...]:
    """Draw distinct pairs of an object's and a place's word, or return all if there are fewer.

    Args:
        count: how many, at least 1.
        seed: which ones.

    Example:
        >>> len(draw_word_pairs(5000)), len(set(draw_word_pairs(40)))
        (5000, 40)
    """
    pairs = tuple(itertools.product(OBJECTS, PLACES))
    if count >= len(pairs):
        return pairs
    rows = generator(seed, "word pairs").choice(len(pairs), size=count, replace=False)
    return tuple(pairs[row] for row in sorted(rows.tolist()))
