"""Garbled inputs for everything that reads what strangers wrote: each is read, or refused with a ValueError.

The seeds are real files, of the tiny world's benchmarks and of a small checkpoint; each input is one of them with some
of it changed, as bytes or as JSON values. Anything but an answer or a ValueError in time is a failure, and is shown.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any

from PIL import Image

SECONDS = 20  # for one input
TEXTS = (".json", ".jsonl", ".tsv", ".txt", ".csv")
TOKENS = [b"\0", b"\xff", b"\r\n", b"\r", b"\t", b"[", b"{", b"}", b'"', b"\\", b"null", b"true", b"NaN", b"1e999",
          b"-1", b"\\ud800", "\u202e".encode(), "\ufeff".encode(), b"9" * 5000, b"[" * 3000, b"../../etc/passwd",
          b"=1+1", b"\x1b[2J", b" ", b"\n", b"\n\n"]  # fmt: skip
VALUES = [None, True, False, 0, -1, 1 << 70, 1.5, float("nan"), float("inf"), "", "a", "\0", "../../etc/passwd", [], {},
          [[]], {"a": None}, "x" * 5000, [None] * 50]  # fmt: skip
Reader = Callable[[bytes], Any]


class Slow(BaseException):
    """An input that was not read in time."""


def bytes_changed(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, taken out, doubled or put in; or every line end."""
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 8, 64, 400))
        way = rng.randrange(7)
        if way == 0:
            data = data[:at] + rng.randbytes(min(size, 8)) + data[at + size :]
        elif way == 1:
            data = data[:at] + data[at + size :]
        elif way == 2:
            data = data[:at] + data[at : at + size] * 2 + data[at + size :]
        elif way == 3:
            data = data[:at] + rng.choice(TOKENS) + data[at:]
        elif way == 4:
            data = data[:at]
        elif way == 5:
            data = data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n")))
        else:
            data = data[:at] + rng.choice(TOKENS) + data[at + size :]
    return data


def values_changed(rng: random.Random, data: bytes) -> bytes:
    """One value of one JSON record exchanged, left out or renamed; bytes where it is no JSON."""
    lines = data.split(b"\n")
    whole = data.lstrip()[:1] in (b"[", b"{") and len([line for line in lines if line.strip()]) == 1
    number = 0 if whole else rng.randrange(len(lines))
    try:
        record = json.loads(data if whole else lines[number])
    except ValueError:
        return bytes_changed(rng, data)
    inner: Any = record
    while isinstance(inner, dict | list) and inner:
        keys: list[Any] = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = rng.choice(keys)
        if not isinstance(inner[key], dict | list) or not inner[key] or rng.random() < 0.3:
            way = rng.randrange(3)
            if way == 0:
                inner[key] = rng.choice(VALUES)
            elif way == 1:
                del inner[key]
            elif isinstance(inner, dict):
                inner[rng.choice(["", "id", key * 2])] = inner.pop(key)
            else:
                inner.append(inner[key])
            break
        inner = inner[key]
    else:
        record = rng.choice(VALUES)
    text = json.dumps(record).encode()
    return text if whole else b"\n".join([*lines[:number], text, *lines[number + 1 :]])


def targets(world: Path, checkpoint: Path, scratch: Path) -> Iterator[tuple[str, bytes, Reader]]:
    """(name, a good input, what reads it)"""
    from debias import records, trends
    from eval import benchmarks
    from eval.answering.store import Folder, numbered
    from eval.reading.images import open_image
    from eval.reading.sample import Sample, read_rows
    from eval.scoring.box import find_box
    from eval.scoring.judge import TASKS, Cache, NoVerdict, verdict_in
    from pruners.loading import folder

    def of_file(path: Path, reader: Callable[[Path], Any], seed: bytes) -> Reader:
        def read(data: bytes) -> Any:
            path.write_bytes(data)
            try:
                return reader(path)
            finally:
                path.write_bytes(seed)

        return read

    for name in benchmarks.NAMES:
        benchmark = benchmarks.get(name)
        home = benchmark.home(world)
        copy = scratch / name
        shutil.copytree(home, copy, ignore=lambda at, names: [n for n in names if not kept(Path(at) / n)])
        for path in sorted(found for found in copy.rglob("*") if found.is_file()):
            seed = path.read_bytes()
            yield (f"{name}: {path.relative_to(copy)}", seed,
                   of_file(path, lambda _, b=benchmark, c=copy: b.load(c, media=False), seed))  # fmt: skip
    rows = "".join(json.dumps({"question_id": i, "text": "a", "metadata": {"key": str(i), "run": "r"}}) + "\n"
                   for i in range(4)).encode()  # fmt: skip
    plain = scratch / "plain"
    yield "answers", rows, of_file(plain, lambda path: list(read_rows(path)), rows)
    yield "shard of a run", rows, of_file(plain, lambda path: list(numbered(path)), rows)
    info = json.dumps({"run": "r", "settings": {"method": "m"}, "benchmarks": {}}).encode()
    (scratch / "run").mkdir()
    yield "run.json", info, of_file(scratch / "run" / "run.json", lambda path: Folder(path.parent).info(), info)
    kept_verdicts = json.dumps({"key": "k", "value": {"score": 0.5}, "reply": "r", "judge": "j"}).encode() + b"\n"
    yield "cached verdicts", kept_verdicts, of_file(plain, Cache, kept_verdicts)

    def trended(path: Path) -> Any:
        records._records.cache_clear()
        return trends.load(path)

    curve = b'[[trend]]\nmethod = "fastv"\nbenchmark = "gqa"\nkind = "exponential"\nrate = 0.001\n'
    yield "trends", curve, of_file(plain, trended, curve)

    def judged(data: bytes) -> Any:
        for rules in TASKS.values():
            try:
                verdict_in(rules, data.decode("utf-8", "replace"))
            except NoVerdict:
                continue

    yield "judges' replies", b'Sure: {"score": 0.5, "pred": "yes"} and more', judged
    yield "boxes", b"It is at [0.1, 0.25, 0.7, 0.9].", lambda data: find_box(data.decode("utf-8", "replace"))
    for path in sorted(checkpoint.iterdir()):
        if path.suffix in (".json", ".safetensors"):
            copy = scratch / "model" / path.name
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
    for path in sorted((scratch / "model").iterdir()):
        seed = path.read_bytes()
        yield f"checkpoint: {path.name}", seed, of_file(path, lambda path: folder.checked(path.parent), seed)
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        frames = [Image.effect_noise((24, 16), 50).convert("RGB") for _ in range(3)]
        more = {"save_all": True, "append_images": frames[1:]} if form == "GIF" else {}
        frames[0].save(file, form, **more)
        yield f"picture: {form}", file.getvalue(), lambda data: open_image(Sample("q", "?", data))


def kept(path: Path) -> bool:
    return path.is_dir() or path.suffix in TEXTS


def fuzz(world: Path, checkpoint: Path, seconds: float, seed: int = 0, inputs: float = inf) -> Counter[str]:
    """So many inputs, or inputs for so many seconds, spread evenly over the readers by number.

    They are written into memory where a machine has a folder for that: on a disk, most of the time goes into waiting.
    """
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as scratch:
        return garbled(list(targets(world, checkpoint, Path(scratch))), seconds, seed, inputs)


def garbled(readers: list[tuple[str, bytes, Reader]], seconds: float, seed: int, inputs: float) -> Counter[str]:
    import warnings

    warnings.simplefilter("ignore")  # Pillow's, about pictures that are not what they say
    rng, counted, failures = random.Random(seed), Counter[str](), Counter[str]()
    for _, good, read in readers:
        read(good)  # or there would be nothing to garble

    def late(*_: object) -> None:
        raise Slow

    signal.signal(signal.SIGALRM, late)
    end = time.monotonic() + seconds
    while time.monotonic() < end and counted["inputs"] < inputs:
        for name, good, read in readers:
            change = values_changed if rng.random() < 0.4 and "picture" not in name else bytes_changed
            data = change(rng, good)
            signal.alarm(SECONDS)
            try:
                read(data)
                counted["read"] += 1
            except ValueError:
                counted["refused"] += 1
            except (Exception, Slow) as error:
                counted["wrong"] += 1
                words = f"{name}: {type(error).__name__}: {str(error)[:150]}"
                if not failures[words]:
                    print(f"  {words}\n    {data[:2000]!r}", flush=True)
                failures[words] += 1
            finally:
                signal.alarm(0)
            counted["inputs"] += 1
            if counted["inputs"] % 100_000 == 0:
                print(f"  {dict(counted)}", flush=True)
    for failure, times in failures.most_common(20):
        print(f"  {times} x {failure}", flush=True)
    counted["readers"] = len(readers)
    return counted
