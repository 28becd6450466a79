from __future__ import annotations

import base64
import csv
import io

import pytest
from PIL import Image

from eval.benchmarks import get, mmbench
from eval.reading.images import open_image
from tiny.layouts.choice import COLUMNS

LETTER = "\nAnswer with the option's letter from the given choices directly."


def picture(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def bench(folder, name="mmbench/mmbench_dev_20230712.tsv", questions=None):
    """Two questions in all rotations of their options, as rows of the file."""
    questions = questions or [
        (7, "What?", "Look\nclosely.", ["red", "blue", "green", "gold"], 1, "colour"),
        (8, "Which one?", "", ["NA", "null"], 0, "other"),
    ]
    rows = []
    for index, question, hint, options, answer, category in questions:
        for turn in range(len(options)):
            turned = options[turn:] + options[:turn]
            letter = "ABCD"[turned.index(options[answer])]
            rows.append(
                [
                    index + turn * 1_000_000,
                    question,
                    hint,
                    *turned,
                    *[""] * (4 - len(options)),
                    letter,
                    category,
                    picture((index, 0, 0)),
                    "s",
                    f"l2 {category}",
                    "",
                    "dev",
                ]
            )
    path = folder.text(name, "")
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([COLUMNS, *rows])
    return path


def test_mmbench(folder, answered):
    bench(folder)
    samples = get("mmbench").load(folder.root)
    assert [sample.id for sample in samples] == [7, 1000007, 2000007, 3000007, 8, 1000008]
    assert samples[0].text == "Look\nclosely.\nWhat?\nA. red\nB. blue\nC. green\nD. gold" + LETTER
    assert samples[4].text == "Which one?\nA. NA\nB. null" + LETTER  # text, not missing values
    assert samples[1].group == "7"
    assert samples[0].image is samples[3].image  # one copy of the picture
    assert open_image(samples[0]).getpixel((0, 0)) == (7, 0, 0)
    assert samples[0].meta["row"] == {
        "round_id": 0,
        "options": ["red", "blue", "green", "gold"],
        "option_char": ["A", "B", "C", "D"],
    }
    assert samples[0].meta["prompt"] + LETTER == samples[0].text
    score = get("mmbench").score(answered(samples, lambda s: s.target), samples)
    assert score.value == 100
    # One rotation wrong, the question is wrong; the rows alone would say 5/6.
    score = get("mmbench").score(answered(samples, lambda s: "D" if s is samples[0] else s.target), samples)
    assert score.value == 50
    assert score.parts["rows"] == pytest.approx(500 / 6)
    assert score.parts["category/colour"] == 0
    assert score.parts["l2-category/l2 other"] == 100
    assert score.groups["1000007"] == "7"
    # A rotation without an answer is wrong too.
    score = get("mmbench").score(answered(samples, lambda s: None if s is samples[5] else s.target), samples)
    assert (score.value, score.missing) == (50, 1)
    # A model that always says A is right in one rotation of each, and so never.
    assert get("mmbench").score(answered(samples, "A"), samples).value == 0


def test_mmbench_options_end_at_the_first_that_is_missing():
    row = dict(zip("ABCD", ["x", "None", "y", "z"], strict=True))
    assert mmbench.options(row) == {"A": "x"}
    for missing in ("", "nan", "NaN", "none", "NONE"):
        assert mmbench.options({"A": "x", "B": "y", "C": missing, "D": "z"}) == {"A": "x", "B": "y"}
    for text in ("NA", "N/A", "null", "n/a", "None of them", "-"):
        assert mmbench.options({"A": "x", "B": text, "C": "y"}) == {"A": "x", "B": text, "C": "y"}


CHOICES = {"A": "red", "B": "blue", "C": "dark blue", "D": "a cat"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("(C).", "C"),
        ("D)", "D"),
        ("Answer: B", "B"),
        ("Answer :B", "B"),
        ("A, red", "A"),
        ("The answer is B", "B"),
        ("A", "A"),
        ("I choose A", "A"),
        ("I would choose A", None),
        ("A or B", None),
        ("It is a red thing", "A"),
        ("A thing that is red", "A"),
        ("A man with a hat", None),
        ("dark blue", None),
        ("It shows a cat.", "D"),
        ("RED", "A"),
        ("b", None),
        ("", None),
        ("purple", None),
        ("AB", None),
        ("E", None),
    ],
)
def test_mmbench_choice_extraction(answer, letter):
    assert mmbench.parsed(answer, CHOICES) == letter


@pytest.mark.parametrize("form", ["B", "B.", "B,", "B:", "B)", "B).", "(B)", "(B).", ":B", ":B,", ":B.", ":B)", ":B)."])
def test_mmbench_ways_to_name_a_letter(form):
    assert mmbench.parsed(f"It is {form} surely", CHOICES) == "B"


@pytest.mark.parametrize("form", ["B;", "[B]", "B!", "(B", "B,.", "'B'", "AB", "B:."])
def test_mmbench_ways_that_name_none(form):
    assert mmbench.parsed(f"It is {form} surely", CHOICES) is None


def test_mmbench_counts_what_the_rules_do_not_understand(folder, answered):
    bench(folder)
    samples = get("mmbench").load(folder.root)
    score = get("mmbench").score(answered(samples, "purple"), samples)
    assert (score.value, score.unparsed) == (0, 6)


def test_mmbench_cn(folder, answered):
    for home in ("mmbench_cn", "mmbench"):  # the script's folder and the documentation's
        path = bench(folder, f"{home}/mmbench_dev_cn_20231003.tsv", [(1, "这是什么?", "", ["猫", "狗"], 0, "x")])
        samples = get("mmbench_cn").load(folder.root)
        assert samples[0].text == "这是什么?\nA. 猫\nB. 狗\n请直接回答选项字母。"
        assert get("mmbench_cn").score(answered(samples, "图中是一只猫"), samples).value == 100
        path.unlink()
    with pytest.raises(ValueError, match="no files of mmbench_cn; expected"):
        get("mmbench_cn").load(folder.root)


@pytest.mark.parametrize(("name", "rows", "groups"), [("mmbench", 4377, 1176), ("mmbench_cn", 4329, 1164)])
def test_mmbench_sizes_of_the_official_sets(name, rows, groups):
    assert get(name).sizes([]) == [(name, 0, rows), (f"{name} without rotations", 0, groups)]


def test_mmbench_faults(folder):
    path = bench(folder)
    text = path.read_text()
    path.write_text(text.replace("index\t", "number\t"))
    with pytest.raises(ValueError, match=r"20230712.tsv: expected the column 'index', found number, question"):
        get("mmbench").load(folder.root)
    path.write_text(text.replace("1000007", "seven"))
    with pytest.raises(ValueError, match="row 2: expected a whole number in 'index', found 'seven'"):
        get("mmbench").load(folder.root)
    path.write_text(text.replace("1000007", "7"))
    with pytest.raises(ValueError, match="asks question '7' twice"):
        get("mmbench").load(folder.root)
    path.write_text(text.replace("iVBOR", "!!!", 1))
    with pytest.raises(ValueError, match="row 1: question 7: expected a picture in base64"):
        get("mmbench").load(folder.root)
    path.write_text(text.rsplit("\t", 3)[0])
    with pytest.raises(ValueError, match="row 6: expected 14 tab-separated cells"):
        get("mmbench").load(folder.root)
    assert any("expected 14" in str(fault) for fault in get("mmbench").check(folder.root))


def test_mmbench_columns_that_can_be_done_without(folder, answered):
    """A test split has no answers, other releases no hints and no categories; base64 may be broken into lines."""
    known = {"index": "7", "question": "What?", "A": "red", "B": "blue", "image": '"AAAA\n BBBB"'}
    folder.text("mmbench/mmbench_dev_20230712.tsv", "\t".join(known) + "\n" + "\t".join(known.values()) + "\n")
    (sample,) = samples = get("mmbench").load(folder.root)
    assert sample.text == "What?\nA. red\nB. blue" + LETTER
    assert (sample.image, sample.target) == (base64.b64decode("AAAABBBB"), None)
    assert (sample.category, sample.meta["level"]) == ("", "")
    with pytest.raises(
        ValueError, match=r"not public; export the answers and upload them to mmbench.opencompass.org.cn$"
    ):
        get("mmbench").score(answered(samples, "A"), samples)


def test_mmbench_pictures_that_name_another_row(folder):
    path = bench(folder)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row in rows[1:4]:
        row["image"] = "7"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    samples = get("mmbench").load(folder.root)
    assert samples[3].image is samples[0].image
