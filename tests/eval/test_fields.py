"""A method's flags: plain fields, and fields that are values of their own."""

from dataclasses import dataclass, field

import pytest

from eval.fields import Misuse, flags_of, parse_fields
from pruners import find, make
from pruners.mis import MIS
from pruners.scores import Scores
from pruners.suppression import Suppression


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
        ("d2pruner", "--selection.alpha 1.0 --layer 3", {"selection": MIS(alpha=1.0), "layer": 3}),
    ],
)
def test_flags_are_fields(method, words, expected):
    assert make(method, **parse_fields(find(method), words.split(), "program")) == make(method, **expected)


def test_unknown_flags_are_bad_usage():
    with pytest.raises(Misuse, match=r"no flag --scorse \(did you mean --scores\?\)"):
        parse_fields(find("deeplayer"), ["--scorse", "ratio"], "program")
    with pytest.raises(ValueError, match="unknown score arithmetic"):
        parse_fields(find("deeplayer"), ["--scores", "rato"], "program")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--keep", "abc"], "--keep abc: expected INT|FLOAT, as in --keep 128"),
        (["--keep=abc"], "--keep abc: expected INT|FLOAT, as in --keep 128"),
        (["--layer", "x"], "--layer x: expected INT, as in --layer 2"),
    ],
)
def test_a_wrong_value_is_one_line(words, said, capsys):
    with pytest.raises(Misuse) as caught:
        parse_fields(find("fastv"), words, "program")
    assert str(caught.value) == said
    assert capsys.readouterr().err == ""


@dataclass
class Several:
    """Says what it is."""

    two_words: int = 1
    yes: bool = False
    made: int = field(default=0, init=False)
    many: tuple[int, ...] = field(default_factory=lambda: (1, 2))


def test_flags_are_named_as_they_are_typed():
    assert flags_of(Several) == ["--two-words", "--yes", "--no-yes", "--many"]


def test_flags_may_be_typed_with_underscores_and_defaults_may_be_made():
    assert parse_fields(Several, ["--two_words", "3"], "program") == {"two_words": 3}
    assert parse_fields(Several, ["--many", "5"], "program") == {"many": (5,)}
    assert parse_fields(Several, ["--no-yes"], "program") == {"yes": False}
    assert parse_fields(Several, [], "program") == {}
    assert parse_fields(find("deeplayer"), ["--scores=ratio"], "program") == {"scores": "ratio"}


def test_help_names_the_program_and_what_it_is_about(capsys):
    with pytest.raises(SystemExit):
        parse_fields(Several, ["-h"], "the-program")
    shown = " ".join("".join(capsys.readouterr()).split())
    assert "usage: the-program " in shown
    assert "Says what it is." in shown
    with pytest.raises(Misuse, match=r"^--scores\.shallow x: expected INT, as in --scores\.shallow 2$"):
        parse_fields(find("deeplayer"), ["--scores.shallow", "x"], "the-program")
