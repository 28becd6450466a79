"""A run folder: `run.json`, and one append-only `<benchmark>/<arm>.<shard>.jsonl` per process.

A row is written whole before the next is begun, so whatever kills a process leaves at most one torn last line. A
machine that goes down can leave more: missing ends, and zeros where data never reached the disk. Both are left out by
readers and taken out by the shard's owner when it comes back, which answers those questions again. Any other broken
line stops with the file and the line.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from eval.core.files import whole, write_json

Row = dict[str, Any]
log = logging.getLogger("debias")


def encode(indices: Iterable[int]) -> str:
    """Sorted indices as ranges: [0, 1, 2, 7] -> "0-2,7"."""
    out: list[list[int]] = []
    for i in indices:
        if out and i == out[-1][1] + 1:
            out[-1][1] = i
        else:
            out.append([i, i])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def decode(ranges: str) -> list[int]:
    """The indices that ranges stand for: "0-2,7" -> [0, 1, 2, 7]."""
    out: list[int] = []
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        out += range(int(first), int(last or first) + 1)
    return out


def numbered(path: Path) -> Iterator[tuple[int, Row]]:
    """(number of the line, row) of one shard. A last line cut off by a crash is left out; any other broken line is an
    error."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # the end of the file as it was now: its writer may be in the middle of this row
            if torn(line):
                continue
            try:
                row = json.loads(line)
                if not isinstance(row["text"], str) or not isinstance(row["metadata"]["key"], str):
                    raise TypeError
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ValueError(
                    f"{path}, line {number}: not a row of a run (one JSON object per line, with text and "
                    "metadata.key). Restore the file, or delete this line to have the question answered again."
                ) from None
            yield number, row


def torn(line: bytes) -> bool:
    """Whether a line cannot be a whole row: it has no end, or holds zeros, which JSON never does."""
    return not line.endswith(b"\n") or b"\0" in line


def mend(path: Path) -> None:
    """Remove the rows that a crash left torn. The file is replaced as a whole, so that nothing else can be lost."""
    with open(path, "rb") as file:
        if not any(map(torn, file)):
            return
        file.seek(0)
        with writing(path), whole(path) as mended:
            mended.writelines(line for line in file if not torn(line))
    log.warning("%s: a crash left torn rows; their questions are answered again", path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside the block, an OSError becomes a ValueError that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be written ({error.strerror}). The rows that are there stay; make it writable, make room, "
            "or give another --out, and start the same command again."
        ) from None


class Shard:
    """One process's file for one arm of one benchmark."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                mend(path)
            self.file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by close)

    def append(self, row: Row) -> None:
        """Write a row at once, whole."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with writing(self.path):
            while line:
                line = line[self.file.write(line) :]

    def close(self) -> None:
        """Close the file, once its rows are on the disk."""
        with writing(self.path), self.file:
            os.fsync(self.file.fileno())


class Folder:
    """The files of one run. Reading needs no lock; writing goes through `claim`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._held = ExitStack()

    # -- writing -------------------------------------------------------------------------------------------------

    def claim(self, settings: Mapping[str, Any], name: str, rank: int = 0, world: int = 1) -> Folder:
        """Take shard `rank` for this process; refuse a folder of other settings, or one in use. Locks end with the
        process, however it ends."""
        locks = self.path / ".lock"
        with writing(self.path):
            locks.mkdir(parents=True, exist_ok=True)
            gate = open(locks / "folder", "a")  # noqa: SIM115 (closed below)
            own = self._held.enter_context(open(locks / f"{rank}of{world}", "a"))  # noqa: SIM115
        try:
            with gate:
                fcntl.flock(gate, fcntl.LOCK_EX)
                if not _lock(own):
                    raise ValueError(
                        f"{self.path} is being written by another process (shard {rank}). "
                        "Wait for it, or give another --out."
                    )
                if others := self._worlds_in_use() - {world}:
                    raise ValueError(
                        f"{self.path} is being written by a run of {others.pop()} process(es); this one is of {world}. "
                        f"Wait for it, or give another --out."
                    )
                self._check(settings, name)
        except BaseException:
            self._held.close()
            raise
        return self

    def _worlds_in_use(self) -> set[int]:
        sizes = set()
        for path in (self.path / ".lock").glob("*of*"):
            with open(path) as file:
                if not _lock(file):
                    sizes.add(int(path.name.partition("of")[2]))
        return sizes

    def _check(self, settings: Mapping[str, Any], name: str) -> None:
        if not (self.path / "run.json").exists():
            if any(self.path.glob("*/*.jsonl")):
                raise ValueError(
                    f"{self.path} holds rows but no run.json, so what made them is unknown. Give another --out."
                )
            self.save("run.json", {"run": name, "settings": dict(settings), "benchmarks": {}})
            return
        there = self.info()
        if there["run"] != name:
            raise ValueError(
                f"{self.path} holds a run of other settings ({differences(there['settings'], settings)}). "
                f"Give another --out; nothing was changed."
            )

    def note(self, benchmark: str, facts: Mapping[str, Any], places: Mapping[str, Any]) -> None:
        """Write down what a benchmark's questions and settings are, and where they lie; refuse to go on with others."""
        with open(self.path / ".lock" / "folder", "a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            info = self.info()
            before = info["benchmarks"].get(benchmark)
            merged = dict(facts)
            if before is not None:
                merged["debias"] = {**before.get("debias", {}), **facts.get("debias", {})}
                same = {name: before.get(name) for name in merged}
                same["debias"] = {**merged["debias"], **before.get("debias", {})}
                if same != merged:
                    raise ValueError(
                        f"{self.path}: {benchmark} is not what this run began with ({differences(same, merged)}). "
                        f"Restore the data and settings, or give another --out."
                    )
            info["benchmarks"][benchmark] = {**merged, **places}
            info["benchmarks"] = dict(sorted(info["benchmarks"].items()))
            self.save("run.json", info)

    def save(self, name: str, content: Any) -> None:
        """Write a JSON file."""
        with writing(self.path / name):
            write_json(self.path / name, content)

    def shard(self, benchmark: str, arm: str, rank: int = 0) -> Shard:
        """The file that this process adds an arm's rows to."""
        return Shard(self.path / benchmark / f"{arm}.{rank}.jsonl")

    def timing(self, rank: int, facts: Mapping[str, Any]) -> None:
        """How long a batch took; kept apart from the rows, which are the same every time."""
        path = self.path / f"timings.{rank}.jsonl"
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")

    def close(self) -> None:
        """Give up the locks."""
        self._held.close()

    # -- reading -------------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """What run.json says: the name of the run, its settings and its benchmarks."""
        path = self.path / "run.json"
        if not path.exists():
            raise ValueError(
                f"{self.path} is not a run folder (it has no run.json). Give the folder that `run --out` wrote."
            )
        try:
            info: dict[str, Any] = json.loads(path.read_text())
            info["run"], info["settings"], info["benchmarks"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: not the run.json of a run ({error}).") from None
        return info

    def arms(self, benchmark: str) -> list[str]:
        """The arms of a benchmark that have rows, in the usual order."""
        present = {path.name.split(".")[0] for path in (self.path / benchmark).glob("*.*.jsonl")}
        known = ["none", "trend", "padding", "both"]
        return sorted(present, key=lambda arm: (known.index(arm) if arm in known else len(known), arm))

    def rows(self, benchmark: str, arm: str, order: Sequence[str] | None = None) -> list[Row]:
        """All shards of one arm as one list, in the order of `order` (keys) when given."""
        run = self.info()["run"]
        merged: dict[str, Row] = {}
        for path in sorted((self.path / benchmark).glob(f"{arm}.*.jsonl")):
            for number, row in numbered(path):
                key, made_by = row["metadata"]["key"], row["metadata"].get("run")
                if made_by != run:
                    raise ValueError(
                        f"{path}, line {number}: a row of run {made_by} in a folder of run {run}. Remove the line."
                    )
                if merged.setdefault(key, row) != row:
                    raise ValueError(
                        f"{path}, line {number}: a second, different answer to {key!r}. Remove one of them."
                    )
        if order is None:
            return list(merged.values())
        place = {key: i for i, key in enumerate(order)}
        return sorted(
            merged.values(), key=lambda row: (place.get(row["metadata"]["key"], len(place)), row["metadata"]["key"])
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In words, how two sets of facts differ; at most four of them."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return "; ".join(f"{name}: {old.get(name)} there, {new.get(name)} here" for name in names[:4]) or "another version"


def _lock(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        raise ValueError(
            f"{file.name}: the file system has no locks ({error.strerror}), so two processes might write one shard. "
            "Give an --out on another file system."
        ) from None
