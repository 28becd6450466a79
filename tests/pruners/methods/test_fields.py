"""What each method's fields may be, and where it cuts: tables, from the methods' papers. No model is loaded."""

from __future__ import annotations

import pytest

import pruners
from pruners.cut import Cut

NEEDED = {"d2pruner": {"scores": "ratio", "layer": 3}}  # no measured prior lies beside what is no model
FIRST = [Cut(0, 128)]
SECOND = [Cut(2, 128)]
CUTS = {  # in a decoder of 32 layers
    "cdpruner": FIRST, "divprune": FIRST, "evs": FIRST, "holov": FIRST, "prumerge": FIRST, "prumergeplus": FIRST,
    "tome": FIRST, "vidcom2": FIRST, "visionzip": FIRST, "vispruner": FIRST,
    "dart": SECOND, "fastv": SECOND, "grid": SECOND, "random": SECOND, "tokencarve": SECOND,
    "d2pruner": [Cut(3, 128, also=(1,))],
    "deeplayer": [Cut(12, 128)],
    "feather": [Cut(8, 128), Cut(16, 128)],
    "himap": [Cut(2, 128, rows="text"), Cut(8, 128, rows="visual")],
    "illava": [Cut(8, 128)],
    "ivcprune": [Cut(16, 128)],
    "pyramiddrop": [Cut(2, 1.0, "same"), Cut(10, 1.0, "same"), Cut(20, 1.0, "same")],
    "sparsevlm": [Cut(3, 128, rows="text"), Cut(7, 128, rows="text"), Cut(16, 128, rows="text")],
    "vscan": [Cut(0, 1.0, "tower"), Cut(16, 1.0)],
}  # fmt: skip
SHALLOWER = {  # the layers of the cuts in a decoder of 8
    "d2pruner": [3], "deeplayer": [3], "feather": [2, 4], "himap": [2, 3], "illava": [2], "ivcprune": [4],
    "pyramiddrop": [1, 3, 5], "sparsevlm": [1, 2, 4], "vscan": [0, 4],
}  # fmt: skip
REFUSED = [
    ("cdpruner", {"relevance": "any"}, r"^unknown relevance of CDPruner 'any'.*known: tokens, clip, none$"),
    ("dart", {"image_pivots": 0}, "^image_pivots=0: give a count"),
    ("dart", {"text_pivots": -1}, "^text_pivots=-1: give a count"),
    (
        "deeplayer",
        {"selection": "any"},
        r"^selection is 'mis', 'suppression', 'topk', an MIS\(...\) or a Suppression\(...\); got",
    ),
    ("feather", {"stride": 0}, "^stride=0: give a whole number of at least 1"),
    ("feather", {"layers": (3,)}, "FEATHER cuts before two layers"),
    ("feather", {"layers": (3, 4, 5)}, "FEATHER cuts before two layers"),
    ("himap", {"keeps": (3,)}, "give 2 counts"),
    ("d2pruner", {"keep": -1}, "^keep=-1: give a count"),
    ("holov", {"crops": 0}, "^crops=0: give a whole number of at least 1"),
    ("holov", {"diversity": -0.5}, "^diversity=-0.5: give a number of at least 0"),
    ("illava", {"tower_keep": -1}, "^keep=-1: give a count"),
    ("sparsevlm", {"keeps": (3, 2)}, "give 3 counts"),
    ("sparsevlm", {"keeps": (3, 2, 1), "layers": (4, 5)}, "give 2 counts"),
    ("tokencarve", {"rank": "any"}, "^unknown rank of TokenCarve 'any'.*known: both, information, attention$"),
    ("tokencarve", {"weight": 1.5}, "^weight=1.5: give a share"),
    ("vidcom2", {"temperature": 0}, "^temperature=0: give a number above 0"),
    ("visionzip", {"dominant": 1.5}, "^dominant=1.5: give a share"),
    ("vispruner", {"important_ratio": -0.5}, "^important_ratio=-0.5: give a share"),
    ("vscan", {"second": 2}, "^second=2: give a share"),
    ("vscan", {"local": 2}, "^local=2: give a share"),
    ("vscan", {"across": 0}, "^across=0: give a whole number of at least 1"),
]
MEANT = [
    ("cdpruner", {"relevance": "clip"}), ("cdpruner", {"relevance": "none"}), ("dart", {"image_pivots": 1}),
    ("dart", {"text_pivots": 0}), ("feather", {"stride": 1}), ("feather", {"layers": (3, 4)}), ("holov", {"crops": 1}),
    ("holov", {"diversity": 0}), ("himap", {"keeps": (3, 3)}), ("illava", {"tower_keep": 0.5}),
    ("tokencarve", {"rank": "information"}), ("tokencarve", {"rank": "attention"}), ("tokencarve", {"weight": 0}),
    ("vidcom2", {"temperature": 0.5}), ("visionzip", {"dominant": 1}), ("vispruner", {"important_ratio": 0}),
    ("vscan", {"second": 1}), ("vscan", {"local": 1}), ("vscan", {"across": 1}),
]  # fmt: skip


def make(name, **fields):
    return pruners.make(name, **{**NEEDED.get(name, {}), **fields})


def test_where_each_method_cuts():
    for name, cuts in CUTS.items():
        assert make(name).cuts(32) == cuts, name
        layers = SHALLOWER.get(name, [cut.layer for cut in cuts])
        assert [cut.layer for cut in make(name).cuts(8)] == layers, name


def test_cuts_where_they_are_asked_for():
    asked = {
        "deeplayer": ({"layer": 5}, [5]), "fastv": ({"layer": 3}, [3]), "grid": ({"layer": 4}, [4]),
        "feather": ({"layers": (3, 5)}, [3, 5]), "himap": ({"layer": 3, "second": 5}, [3, 5]),
        "illava": ({"layer": 4}, [4]), "vscan": ({"layer": 5}, [0, 5]), "dart": ({"layer": 4}, [4]),
        "sparsevlm": ({"layers": (3, 4)}, [3, 4]), "random": ({"layer": 1}, [1]), "tokencarve": ({"layer": 1}, [1]),
    }  # fmt: skip
    for name, (fields, layers) in asked.items():
        assert [cut.layer for cut in make(name, **fields).cuts(8)] == layers, name
    assert [cut.layer for cut in make("himap", layer=7).cuts(8)] == [7]  # the second lies behind the last layer
    assert [cut.layer for cut in make("himap", layer=6).cuts(8)] == [6, 7]
    named = make("pyramiddrop", layers=(3, 4), ratios=(0.5, 0.25))
    assert named.cuts(8) == [Cut(3, 0.5, "same"), Cut(4, 0.25, "same")]
    assert named.counts(8, 100) == [50, 25]


def test_pyramiddrop_needs_a_ratio_for_every_layer():
    with pytest.raises(ValueError, match=r"cuts before layers \(3, 4\), which needs 2 ratios; got \(0.5,\)"):
        make("pyramiddrop", layers=(3, 4), ratios=(0.5,)).cuts(8)


def test_budgets_are_checked_in_every_method():
    for name in pruners.names():
        with pytest.raises(ValueError, match=r"^keep=-1: give a count"):
            make(name, keep=-1)


@pytest.mark.parametrize(("name", "fields", "message"), REFUSED)
def test_what_cannot_be_meant_is_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        make(name, **fields)


def test_what_lies_on_the_edge_is_taken():
    for name, fields in MEANT:
        method = make(name, **fields)
        assert {field: getattr(method, field) for field in fields} == fields
        with pytest.raises(AttributeError):
            method.keep = 3  # a method is a value
