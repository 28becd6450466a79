"""A method's flags: plain fields, and fields that are values of their own."""

import ast

import pytest

from eval.core.fields import Misuse, _called, assembled, parse_fields, refused
from pruners import make
from pruners.parts.mis import MIS
from pruners.parts.scores import Scores
from pruners.parts.suppression import Suppression


@pytest.mark.parametrize(
    ("method", "words", "expected"),
    [
        ("fastv", "--keep 0.5 --mode mask", {"keep": 0.5, "mode": "mask"}),
        ("pyramiddrop", "--layers 1 2 --keep 3", {"layers": (1, 2), "keep": 3}),
        ("deeplayer", "--scores ratio --keep=7", {"scores": Scores("ratio"), "keep": 7}),
        ("deeplayer", "--scores ratio --scores.shallow 3", {"scores": Scores("ratio", shallow=3)}),
        ("deeplayer", "--scores.no-rope --selection topk", {"scores": Scores(rope=False), "selection": "topk"}),
        ("deeplayer", "--selection suppression", {"selection": Suppression()}),
        ("deeplayer", "--selection suppression --selection.radius 3", {"selection": Suppression(radius=3.0)}),
        ("deeplayer", "--selection suppression --selection.strength 0.5", {"selection": Suppression(strength=0.5)}),
        (
            "deeplayer",
            "--selection.rule union --scores.kind ratio",
            {"selection": MIS(rule="union"), "scores": Scores("ratio")},
        ),
        ("himap", "--keeps 40 30", {"keeps": (40, 30)}),
        ("pyramiddrop", "--ratios 0.5 0.25 1", {"ratios": (0.5, 0.25, 1.0)}),
        ("illava", "--no-silence-merge --tower_layers 3", {"silence_merge": False, "tower_layers": (3,)}),
        ("prumerge", "--adaptive", {"adaptive": True}),
        ("prumerge", "--adaptive True", {"adaptive": True}),
        ("illava", "--silence-merge False", {"silence_merge": False}),
        ("deeplayer", "--layer None", {"layer": None}),
        ("fastv", "", {}),
        ("d2pruner", "--selection.alpha 1.0 --layer 3", {"selection": MIS(alpha=1.0), "layer": 3}),
    ],
)
def test_flags_are_fields(method, words, expected):
    assert assembled(method, parse_fields(method, words.split())) == make(method, **expected)


@pytest.mark.parametrize(
    ("method", "words", "said"),
    [
        ("fastv", "--keep abc", "--keep abc: expected a whole number or a number, as in --keep 128"),
        ("fastv", "--keep=abc", "--keep abc: expected a whole number or a number, as in --keep 128"),
        ("illava", "--tower-keep x", "--tower-keep x: expected a whole number or a number"),  # no default to copy
        ("deeplayer", "--layer x", "--layer x: expected a whole number"),
        ("prumerge", "--adaptive x", "--adaptive x: expected no value"),
        ("pyramiddrop", "--ratios x", "--ratios x: expected numbers"),
        ("cdpruner", "--clip a b", "--clip a b: expected a word, as in --clip openai/clip-vit-large-patch14-336"),
        ("d2pruner", "--prior.layer 3", "D2Pruner has no flag --prior.layer (did you mean --prior?); it has "
         "--keep, --layer, --scores, --selection, --prior"),
        ("fastv", "--layer x", "--layer x: expected a whole number, as in --layer 2"),
        ("fastv", "--layer 1 2", "--layer 1 2: expected a whole number, as in --layer 2"),
        ("fastv", "--layer", "--layer without a value: expected a whole number, as in --layer 2"),
        ("fastv", "--mode hide", "--mode hide: expected gather or mask, as in --mode gather"),
        ("fastv", "5 --layer 2", "unexpected 5: a value needs its flag before it"),
        ("fastv", "--no-layer", "FastV has no flag --no-layer (did you mean --layer?); it has --keep, --mode, --layer"),
        ("pyramiddrop", "--layers 1 x", "--layers 1 x: expected whole numbers"),
        ("himap", "--keeps 1 2 3", "--keeps 1 2 3: expected 2 whole numbers"),
        ("deeplayer", "--scores.shallow x", "--scores.shallow x: expected a whole number, as in --scores.shallow 2"),
        ("deeplayer", "--scores.no-eps", "DeepLayer has no flag --scores.no-eps (did you mean --scores.eps?); it has "
         "--keep, --layer, --scores, --selection, --prior"),
        ("vispruner", "--no-no-silence-pool", "VisPruner has no flag --no-no-silence-pool (did you mean "
         "--silence-pool?); it has --keep, --important-ratio, --silence-pool"),
        ("vispruner", "--silence-pool x", "--silence-pool x: expected no value"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_told_in_one_line(method, words, said):
    with pytest.raises(Misuse) as caught:
        parse_fields(method, words.split())
    assert str(caught.value) == said


def test_a_misspelt_value_of_a_field_is_answered_with_those_there_are():
    with pytest.raises(Misuse, match=r"^--scores rato: expected raw or ratio or .*, as in --scores raw$"):
        parse_fields("deeplayer", ["--scores", "rato"])
    with pytest.raises(Misuse, match=r"^--scores scores: expected raw or ratio"):  # the name of the class is no value
        parse_fields("deeplayer", ["--scores", "scores"])
    with pytest.raises(Misuse, match=r"^--selection x: expected mis or topk or suppression, as in --selection mis$"):
        parse_fields("deeplayer", ["--selection", "x"])
    with pytest.raises(Misuse, match=r"no flag --scorse \(did you mean --scores\?\)"):
        parse_fields("deeplayer", ["--scorse", "ratio"])


def test_a_value_error_is_a_misuse_and_everything_else_is_handed_on():
    assert refused(int, "17", base=8) == 15
    with pytest.raises(Misuse, match="invalid literal"):
        refused(int, "x")
    with pytest.raises(TypeError):
        refused(int, [])


def test_fields_come_from_python_as_well():
    assert assembled("illava", {"tower-keep": 0.5, "tower_layers": [3]}) == make(
        "illava", tower_keep=0.5, tower_layers=(3,)
    )
    with pytest.raises(ValueError, match=r"^fastv has no field keep with fields of its own \(shallow\)$"):
        assembled("fastv", {"keep.shallow": 3})


def test_a_kind_that_has_no_words_is_called_as_it_is_written():
    assert _called(ast.parse("torch.dtype", mode="eval").body) == "torch.dtype"
