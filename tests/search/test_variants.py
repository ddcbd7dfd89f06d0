"""Which variants of a trained network are worth making."""

import pytest
from searches import Known, asked, contender, point, timed

from tlopt.cards.card import plain
from tlopt.search.funnel import field
from tlopt.search.funnel.variants import Base, Variant, of_base


@pytest.mark.parametrize(
    ("float_accuracy", "int8", "ways"),
    [
        (0.81, 0.80, ["plain"]),  # pruning lost nine points, int8 one, which may be chance
        (0.90, 0.80, ["plain", "trained"]),
        (None, 0.80, ["plain", "trained"]),  # of an older search
        (None, 0.89, ["plain"]),
    ],
)
def test_the_int8_of_a_pruned_network_is_held_against_the_pruned_network(float_accuracy, int8, ways):
    search = asked(names=("a",), precisions=("fp32", "int8", "qat"))
    known = Known(search).time("a", 20.0).time("a", 6.0, width=0.7)
    one = contender(search, "a")
    base = Base(contender=one, artifact="work/a", accuracy=0.9)
    pruned = Variant(base=base, point=point(search, one, "int8", 0.7))
    known.done(f"make/{pruned.made_key}", {"artifact": "work/b", "float_accuracy": float_accuracy})
    measured = {"hits": round(100 * int8), "images": 100, "timed": plain(timed(3.0))}
    known.done(f"measure/{pruned.key}", measured)
    now = known.now()
    [standing] = field.standings(search, now.results, settled=True)
    found = of_base(search, now.results, standing, base)
    assert [(one.point.width, one.way) for one in found] == [(0.7, way) for way in ways]
