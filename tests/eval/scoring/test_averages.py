from __future__ import annotations

import json

import pytest

from eval.cli import main
from eval.scoring.averages import AVERAGES, averages, retention

# LLaVA-1.5-7B as published in LLaVA's model zoo (docs/MODEL_ZOO.md); the paper's average for it is 63.1.
ZOO = {
    "vqav2": 78.5, "gqa": 62.0, "vizwiz": 50.0, "scienceqa": 66.8, "textvqa": 58.2, "pope": 85.9, "mme": 1510.7,
    "mmbench": 64.3, "mmbench_cn": 58.3, "mmvet": 31.1,
}  # fmt: skip


def test_the_papers_average():
    assert AVERAGES["avg10"](ZOO) == pytest.approx(63.06, abs=0.01)
    assert AVERAGES["avg10"].recipe == "mme_perception_over_20"
    assert AVERAGES["avg10"].version == 1


@pytest.mark.parametrize("name", ZOO)
def test_a_missing_member_is_named(name):
    values = {key: value for key, value in ZOO.items() if key != name}
    with pytest.raises(ValueError, match=f"avg10 needs {name};"):
        AVERAGES["avg10"](values)
    assert "avg10" not in averages(values)


def test_a_stand_in_is_no_member():
    values = {**ZOO, "vizwiz_val": 60.0}
    del values["vizwiz"]
    assert "avg10" not in averages(values)
    assert averages(values)["avg_offline"] == pytest.approx((62 + 66.8 + 58.2 + 85.9 + 75.535 + 64.3 + 58.3) / 7)
    stand_ins = {**values, "vqav2_val": 70.0, "mmvet_em": 10.0}
    assert "avg10_stand_in" in averages(stand_ins)


def test_retention():
    assert retention({"gqa": 31.0, "pope": 85.9}, {"gqa": 62.0, "pope": 85.9}) == pytest.approx(75)
    with pytest.raises(ValueError, match="retention needs pope"):
        retention({"gqa": 31.0}, {"gqa": 62.0, "pope": 85.9})
    with pytest.raises(ValueError, match="a baseline with at least one score"):
        retention({}, {})
    with pytest.raises(ValueError, match=r"a score of 0 \(gqa\)"):
        retention({"gqa": 31.0}, {"gqa": 0.0})


def test_the_command(capsys):
    words = [f"{name}={value}" for name, value in ZOO.items()]
    assert main(["average", *words, "--baseline", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["averages"]["avg10"] == pytest.approx(63.06, abs=0.01)
    assert found["retention"] == pytest.approx(100)
    assert found["recipes"]["avg10"] == "mme_perception_over_20, version 1"
    assert main(["average", *words, "--baseline", *words]) == 0
    assert "retention 100.00 %" in capsys.readouterr().out
    assert main(["average", *words[:-2]]) == 1
    assert "avg10 needs mmbench_cn, mmvet" in capsys.readouterr().err
    assert main(["average", "gqa"]) == 1
    assert "expected NAME=VALUE, for example pope=85.9; found 'gqa'" in capsys.readouterr().err
    assert main(["average", "gqa=31", "pope=85.9", "--baseline", "gqa=62"]) == 0
    assert "retention 50.00 %" in capsys.readouterr().out
    assert main(["average", "gqa=1", "--baseline", "pope=2"]) == 1
    assert "retention needs pope" in capsys.readouterr().err
