"""Only a grade that was understood is one: whatever else a judge sends is counted, shown, and asked for again."""

from __future__ import annotations

import json

import pytest
from judge import BODIES, LyingJudge

from eval.cli import main
from eval.scoring import judge as judging
from eval.scoring.judge import Judge


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(judging, "_wait", lambda state, longest: 0.0)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-key")


@pytest.fixture
def server():
    with LyingJudge() as running:
        yield running


@pytest.fixture
def answers(world, tmp_path):
    from eval import benchmarks

    samples = benchmarks.get("mmvet").load(world, media=False)
    lines = [json.dumps({"question_id": sample.id, "text": f"answer {i}"}) for i, sample in enumerate(samples)]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "answers.jsonl", len(samples)


def score(server, world, answers, capsys):
    words = ["score", "mmvet", "--answers", str(answers), "--data", str(world), "--judge-url", server.url]
    status = main([*words, "--judge-model", "j", "--judge-cache", str(answers.with_name("cache")), "--json"])
    said = capsys.readouterr()
    return status, json.loads(said.out) if said.out.strip() else None, said.err


@pytest.mark.parametrize("way", [*BODIES, "lie"])
def test_no_failure_is_a_grade(server, world, answers, capsys, way):
    path, count = answers
    server.way = way
    status, found, said = score(server, world, path, capsys)
    assert (status, found) == (1, None)
    assert f"none of {count} answers was judged" in said
    server.way = "right"
    status, found, _ = score(server, world, path, capsys)
    assert (status, found["value"], found["unjudged"]) == (0, 50.0, 0)


def test_what_was_not_judged_is_left_out_counted_and_asked_again(server, world, answers, capsys):
    path, count = answers
    honest = server.answer
    server.answer = lambda to, way: honest(to, "page" if b"answer 3" in to.body else way)
    status, found, said = score(server, world, path, capsys)
    assert (status, found["value"], found["unjudged"], found["n"]) == (1, 50.0, 1, count - 1)
    assert "Answers not judged: 1." in said
    asked = server.asked
    server.answer = honest
    status, found, _ = score(server, world, path, capsys)
    assert (status, found["n"], server.asked) == (0, count, asked + 1)


def test_failures_that_an_older_version_kept_are_asked_for_again(server, world, answers, capsys):
    path, _ = answers
    assert score(server, world, path, capsys)[0] == 0
    cache = path.with_name("cache")
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    cache.write_text("".join(json.dumps({**line, "value": None, "reply": ""}) + "\n" for line in lines))
    status, found, _ = score(server, world, path, capsys)
    assert (status, found["value"]) == (0, 50.0)


@pytest.mark.parametrize("key", ["sk-ключ", "sk-a\nb", "sk-\x00", "ｓｋ"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(server, tmp_path, monkeypatch, key):
    monkeypatch.setattr(judging.os, "environ", {**judging.os.environ, "OPENAI_API_KEY": key})
    with pytest.raises(ValueError, match=r"the key in \$OPENAI_API_KEY holds characters") as error:
        Judge(server.url, "j", tmp_path / "c")
    assert key not in str(error.value)
    assert server.asked == 0


def test_arms_are_compared_on_the_questions_that_were_judged_in_all(server, world, tmp_path, monkeypatch):
    """An answer without a grade leaves every arm, and the other arms' scores are those of what is left."""
    from eval import benchmarks
    from eval.answering.plan import digest
    from eval.answering.store import Folder
    from eval.reading.sample import make_row
    from eval.scoring import compare
    from eval.scoring.results import results, unjudged

    samples = benchmarks.get("mmvet").load(world, media=False)
    folder = Folder(tmp_path / "run")
    facts = {"n": len(samples), "digest": digest(samples), "data": str(world), "tokens": 36}
    info = {"run": "r", "settings": {"method": "m", "limit": None}, "benchmarks": {"mmvet": facts}}
    for arm in ("none", "both"):
        shard = folder.shard("mmvet", arm)
        for i, sample in enumerate(samples):
            facts = {"key": sample.key, "run": "r", "arm": arm}
            shard.append(make_row(sample, f"{arm} {i}", "m", facts))
        shard.close()
    folder.save("run.json", info)
    honest = server.answer
    server.answer = lambda to, way: honest(to, "page" if b"both 2" in to.body else way)
    (found,) = results(folder, judge=Judge(server.url, "j", tmp_path / "c"))
    assert unjudged([found]) == 1
    assert {arm: result.score.n for arm, result in found.arms.items()} == dict.fromkeys(found.arms, len(samples) - 1)
    assert samples[2].key not in found.arms["none"].score.items
    assert compare.within([found], "none", 50)[0].n == len(samples) - 1
    assert "Answers not judged: 1." in "\n".join(compare.score_table("t", [found]).notes)
