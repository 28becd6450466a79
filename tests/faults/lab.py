"""The faults, one function each: every one runs real evaluations, hurts them, and returns what it counted.

Whatever happened, the folder must end with the rows of a run that nobody disturbed: none lost, none doubled, none
wrong. `checked` compares them without the product's own reader.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from evaluations import HERE, ROOT, Evaluations, Process
from judge import LyingJudge

Rows = dict[tuple[str, str, str], dict[str, Any]]
ARMS = ("none", "both")
SHORT = ("--draws", 20, "--report-samples", 0, "--max-new-tokens", 3, "--trend", "online", "--method", "fastv")


class Lab:
    def __init__(self, scratch: Path, benchmarks: str = "pope,gqa,msvd", limit: int | None = None) -> None:
        self.scratch = scratch
        self.evaluations = Evaluations(scratch / "logs")
        self.evaluations.order(prepare=str(scratch / "given"))
        self.can_mount = self.evaluations.order(may_mount=True)
        given = scratch / "given"
        self.world = given / "world"
        self.common: list[Any] = [*SHORT, "--model", given / "llava", "--video-model", given / "video_llava",
                                  "--arms", ",".join(ARMS)]  # fmt: skip
        self.usual: list[Any] = [*self.common, "--data", self.world, "--benchmarks", benchmarks, "--batch-size", 3]
        if limit:
            self.usual += ["--limit", limit]
        self.number = 0
        whole = self.folder()
        self.run([*self.usual, "--out", whole])
        self.reference = rows_of(whole)

    def folder(self) -> Path:
        self.number += 1
        return self.scratch / f"run{self.number}"

    def run(self, arguments: list[Any], faults: Any = (), status: int = 0, **environment: str) -> Process:
        process = self.evaluations.run(arguments, faults, environment=environment)
        assert process.status == status, f"exit status {process.status}, expected {status}:\n{process.said()}"
        return process

    def close(self) -> None:
        self.evaluations.close()

    def checked(self, folder: Path, reference: Rows | None = None) -> Counter[str]:
        return compared(folder, self.reference if reference is None else reference)


def lines_of(folder: Path) -> list[tuple[str, str, bytes]]:
    return [
        (path.parent.name, path.name.split(".")[0], line)
        for path in sorted(folder.glob("*/*.jsonl"))
        for line in path.read_bytes().split(b"\n")
        if line
    ]


def rows_of(folder: Path) -> Rows:
    found = [(benchmark, arm, json.loads(line)) for benchmark, arm, line in lines_of(folder)]
    return {(benchmark, arm, row["metadata"]["key"]): row for benchmark, arm, row in found}


def compared(folder: Path, reference: Rows) -> Counter[str]:
    """How many rows there should be, and how many are lost, doubled or wrong."""
    seen: Counter[tuple[str, str, str]] = Counter()
    wrong = 0
    for benchmark, arm, line in lines_of(folder):
        try:
            row = json.loads(line)
            place = (benchmark, arm, row["metadata"]["key"])
        except (ValueError, KeyError, TypeError):
            wrong += 1
            continue
        seen[place] += 1
        wrong += row != reference.get(place)
    doubled = sum(count - 1 for count in seen.values())
    return Counter(rows=len(reference), lost=len(reference.keys() - seen.keys()), doubled=doubled, wrong=wrong)


# -- killed, and a disk that lost the end --------------------------------------------------------------------------


def judged_kills(lab: Lab, times: int, seed: int = 0) -> Counter[str]:
    """The same with two processes, as torchrun starts them, clips among the questions, and a judge of all answers."""
    with LyingJudge() as server:
        judged = ["--judge-url", server.url, "--judge-model", "judge", "--judge-cache", lab.scratch / "judged.cache"]
        arguments = [*lab.common, "--data", lab.world, "--benchmarks", "pope,mmvet,msvd", "--batch-size", 3, *judged]
        whole = lab.folder()
        lab.run([*arguments, "--out", whole])
        scores = json.loads((whole / "scores.json").read_text())["scores"]
        return kills(lab, times, seed, arguments, (2,), rows_of(whole), scores)


def kills(
    lab: Lab,
    times: int,
    seed: int = 0,
    usual: list[Any] | None = None,
    worlds: tuple[int, ...] = (1, 1, 2, 3),
    reference: Rows | None = None,
    scores: Any = None,
) -> Counter[str]:
    """SIGKILL at random moments, one to three processes; half of the files then lose or garble what was written last.
    Then the same command again, until it ends."""
    rng = random.Random(seed)
    total: Counter[str] = Counter()
    while total["kills"] < times:
        folder, world = lab.folder(), rng.choice(worlds)
        arguments = [*(usual or lab.usual), "--out", folder]
        running: dict[int, Process] = {}
        ended: set[int] = set()
        budget = min(rng.randint(4, 12), times - total["kills"])
        while len(ended) < world:
            for rank in set(range(world)) - ended - running.keys():
                place = {"RANK": str(rank), "WORLD_SIZE": str(world)} if world > 1 else {}
                running[rank] = lab.evaluations.start(arguments, environment=place)
            if budget:
                await_some(folder, list(running.values()), rng)
            else:
                for process in running.values():
                    process.wait()
            for rank, process in list(running.items()):
                if not process.running():
                    assert process.status == 0, process.said()
                    ended.add(rank)
                elif budget and (len(running) == 1 or rng.random() < 0.6):
                    budget -= 1
                    ended.discard(rank)
                    total["ended before the kill" if process.kill() == 0 else "kills"] += 1
                    total.update(damage(folder, rank, rng))
                else:
                    continue
                del running[rank]
        total["runs"] += 1
        total.update(lab.checked(folder, reference))
        if scores is not None:
            total["wrong"] += json.loads((folder / "scores.json").read_text())["scores"] != scores
        shutil.rmtree(folder)
    return total


def await_some(folder: Path, processes: list[Process], rng: random.Random) -> None:
    """Until some more rows are there, and a moment longer."""

    def rows() -> int:
        return sum(path.read_bytes().count(b"\n") for path in folder.glob("*/*.jsonl"))

    wanted = rows() + rng.randint(0, 8)
    while rows() < wanted and all(process.running() for process in processes):
        time.sleep(0.02)
    time.sleep(rng.random() * 0.1)


def damage(folder: Path, rank: int, rng: random.Random) -> Counter[str]:
    """What a machine that goes down does to the last write: a missing end, zeros at the end, or zeros before it."""
    files = [path for path in sorted(folder.glob(f"*/*.{rank}.jsonl")) if path.stat().st_size]
    if not files or rng.random() < 0.5:
        return Counter()
    path = max(files, key=lambda file: file.stat().st_mtime_ns)
    data = path.read_bytes()
    reach = min(len(data), rng.randint(1, 900))
    how = rng.choice(("truncated", "zeros at the end", "written out of order"))
    if how == "truncated":
        data = data[:-reach]
    elif how == "zeros at the end":
        data = data[:-reach] + bytes(reach + rng.randint(0, 4096))
    else:  # the end arrived, what comes before it did not
        hole = rng.randint(1, reach)
        data = data[: len(data) - reach] + bytes(hole) + data[len(data) - reach + hole :]
    path.write_bytes(data)
    return Counter({how: 1})


# -- disks ---------------------------------------------------------------------------------------------------------


def full_disk(lab: Lab) -> Counter[str]:
    """No room left after some rows: the message says so, nothing that was there is lost, and it goes on later."""
    total: Counter[str] = Counter()
    # a limit that rows reach before what the run says does, which goes into a file as well
    for fault in (["no_space", 7], ["file_limit", 2500]):
        folder = lab.folder()
        said = lab.run([*lab.usual, "--out", folder], [fault], status=1).said()
        assert "cannot be written" in said, said
        kept = [line for _, _, line in lines_of(folder)]
        assert kept, "the disk was full at once"
        lab.run([*lab.usual, "--out", folder])
        total.update(lab.checked(folder))
        total["disks that were full"] += 1
    if lab.can_mount:
        folder = lab.folder()
        process = lab.run([*lab.usual, "--out", folder], [["small_disk", str(folder), "48k"]])
        assert "No space left on device" in process.said(), process.said()
        total.update(lab.checked(folder.with_name(folder.name + ".kept")))
        total["disks that were full"] += 1
    return total


def read_only(lab: Lab) -> Counter[str]:
    """A folder that cannot be written is named before anything is computed; what is in it stays as it was."""
    folder = lab.folder()
    folder.mkdir()
    if os.geteuid() and not lab.can_mount:
        folder.chmod(0o555)
        fault: list[Any] = []
    elif lab.can_mount:
        fault = [["read_only", str(folder)]]
    else:
        return Counter({"skipped": 1})
    said = lab.run([*lab.usual, "--out", folder], fault, status=2).said()
    assert "cannot be written" in said, said
    assert "loading" not in said, "a model was loaded for nothing"
    assert not list(folder.iterdir())
    return Counter({"folders refused": 1})


def two_runs(lab: Lab) -> Counter[str]:
    """Two runs started on one folder at once: one is refused, the other ends as if it had been alone."""
    folder = lab.folder()
    both = [lab.evaluations.start([*lab.usual, "--out", folder]) for _ in range(2)]
    codes = [process.wait() for process in both]
    assert sorted(codes) == [0, 1], [process.said() for process in both]
    refused = both[codes.index(1)].said()
    assert "is being written by another process" in refused, refused
    return lab.checked(folder) + Counter({"second runs refused": 1})


# -- models and media ----------------------------------------------------------------------------------------------


def out_of_memory(lab: Lab) -> Counter[str]:
    """Too little memory for a batch, in the middle of the decoder: halved, tried again, the same answers."""
    folder = lab.folder()
    notes = folder.with_suffix(".notes")
    arguments = [*lab.usual, "--batch-size", 8, "--out", folder]
    process = lab.run(arguments, [["little_memory", 2]], FAULT_NOTES=str(notes))
    assert "questions at once; going on with" in process.said(), process.said()
    return lab.checked(folder) + Counter({"batches that did not fit": len(notes.read_text().splitlines())})


def nan(lab: Lab) -> Counter[str]:
    """One picture makes the model's logits NaN: its questions have no answer and say why, all others have theirs."""
    folder = lab.folder()
    data = lab.scratch / "poisoned"
    shutil.copytree(lab.world / "pope", data / "pope", symlinks=False)
    victim = sorted({row["image"] for row in questions(data / "pope" / "llava_pope_test.jsonl")})[0]
    lab.evaluations.order(blacken=str(data / "pope" / "val2014" / victim))
    arguments = [*lab.common, "--data", data, "--benchmarks", "pope", "--batch-size", 4]
    lab.run([*arguments, "--out", folder.with_suffix(".well")])
    well = rows_of(folder.with_suffix(".well"))
    lab.run([*arguments, "--out", folder], [["poison"]])
    sick = rows_of(folder)
    ill = {id for id, image in pictures(data / "pope" / "llava_pope_test.jsonl").items() if image == victim}
    counted: Counter[str] = Counter()
    for place, row in well.items():
        if str(row["question_id"]) in ill:
            assert "NaN" in sick[place]["metadata"]["error"], sick[place]
            assert sick[place]["text"] == "", sick[place]
            counted["answers that were NaN"] += 1
        else:
            counted["wrong"] += sick.get(place) != row
    counted["rows"] = len(well)
    counted["lost"] = len(well.keys() - sick.keys())
    scores = json.loads((folder / "scores.json").read_text())["scores"]["pope"]
    for arm in ARMS:
        assert scores[arm]["failed"] == scores[arm]["missing"] == counted["answers that were NaN"] / len(ARMS)
    for name in ("table.csv", "table.md"):
        assert "broken" in (folder / name).read_text()
    return counted


def questions(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def pictures(path: Path) -> dict[str, str]:
    return {str(record["question_id"]): record["image"] for record in questions(path)}


def decoder(lab: Lab, ways: tuple[str, ...] = ("crash", "hang", "exit")) -> Counter[str]:
    """A clip that kills, hangs or ends the video decoder: the run says which, or goes on without it when told to."""
    counted: Counter[str] = Counter()
    for way in ways:
        folder = lab.folder()
        data = lab.scratch / f"clips-{way}"
        shutil.copytree(lab.world / "GPT_Zero_Shot_QA" / "MSVD_Zero_Shot_QA", data / "GPT_Zero_Shot_QA" /
                        "MSVD_Zero_Shot_QA", symlinks=False)  # fmt: skip
        home = data / "GPT_Zero_Shot_QA" / "MSVD_Zero_Shot_QA"
        victim = sorted((home / "videos").iterdir())[0]
        arguments = [*lab.common, "--data", data, "--benchmarks", "msvd", "--batch-size", 4, "--out", folder]
        patience = "10" if way == "hang" else "60"  # clips that are well are decoded in it, however busy the machine is
        around = {"PYTHONPATH": os.pathsep.join((str(HERE / "decoder"), str(ROOT))), "FAULT_CLIP": str(victim),
                  "FAULT_WAY": way, "DEBIAS_DECODER_SECONDS": patience}  # fmt: skip
        said = lab.run(arguments, status=1, **around).said()
        assert f"{victim}: the video decoder" in said, said
        assert "--skip-broken" in said, said
        lab.run([*arguments, "--skip-broken"], **around)
        asked = json.loads((home / "test_q.json").read_text())
        ill = {str(record["question_id"]) for record in asked if record["video_name"] == victim.stem}
        reference = {place: row for place, row in lab.reference.items() if place[0] == "msvd"}
        found = rows_of(folder)
        for place, row in found.items():
            if str(row["question_id"]) in ill:
                assert "the video decoder" in row["metadata"]["error"], row
                counted["answers without a clip"] += 1
            elif place in reference:
                counted["wrong"] += row["text"] != reference[place]["text"]
        counted["rows"] += len(reference)
        counted["lost"] += len(reference.keys() - found.keys())
        counted[f"decoders: {way}"] += 1
    return counted


# -- the judge -----------------------------------------------------------------------------------------------------


JUDGES = ("hang", "drip", "drop", "error", "flood", "echo", "lie", "page", "list", "null", "no choices", "cut")


def judge(lab: Lab, ways: tuple[str, ...] = JUDGES) -> Counter[str]:
    """A judge that hangs, breaks off or lies: no verdict is made up, no answer is lost, no key is shown."""
    counted: Counter[str] = Counter()
    key = "sk-this-is-the-key"
    with LyingJudge() as server:
        whole = lab.folder()
        arguments = [*lab.common, "--data", lab.world, "--benchmarks", "mmvet", "--arms", "none",
                     "--judge-url", server.url, "--judge-model", "judge"]  # fmt: skip
        around = {"OPENAI_API_KEY": key}

        def asked(folder: Path, way: str, status: int) -> Process:
            server.way = way
            cache = folder.with_suffix(".cache")
            # a judge that answers must not be late on a machine that is busy with other things
            patience = 1 if way in ("hang", "drip", "flood") else 60
            words = [*arguments, "--judge-timeout", patience, "--judge-cache", cache, "--out", folder]
            return lab.run(words, [["impatient"]], status, **around)

        asked(whole, "right", 0)
        reference = rows_of(whole)
        right = json.loads((whole / "scores.json").read_text())["scores"]["mmvet"]["none"]
        assert right["unparsed"] == right["missing"] == 0
        for way in ways:
            folder = lab.folder()
            stays_away = way in ("hang", "drip", "drop", "error", "flood")
            process = asked(folder, way, 1)
            said = "did not answer" if stays_away else f"none of {right['n']} answers was judged"
            assert said in process.said(), process.said()
            assert not (folder / "scores.json").exists()
            counted["verdicts refused"] += 0 if stays_away else right["n"]
            asked(folder, "right", 0)  # with the same cache: no failure is a grade
            score = json.loads((folder / "scores.json").read_text())["scores"]["mmvet"]["none"]
            counted["wrong"] += score["value"] != right["value"]
            counted.update(lab.checked(folder, reference))
            counted[f"judges: {way}"] += 1
            for path in [*lab.scratch.rglob("*.log"), *folder.rglob("*"), *lab.scratch.glob("*.cache")]:
                if path.is_file():
                    counted["keys shown"] += key.encode() in path.read_bytes()
    return counted
