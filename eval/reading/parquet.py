"""Benchmarks that are published as Hugging Face datasets: written once in LLaVA's layout, which everything else reads.
Needs pyarrow.

    --data hf:lmms-lab/POPE      the dataset of the hub, fetched on first use
    --data FOLDER                a folder with its .parquet files
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from eval.core.files import cache_home
from eval.reading.published import PUBLISHED, Published, Rows, benchmark_of
from pruners.loading.folder import fetched

HUB = "hf:"


def is_parquet(data: Path) -> bool:
    """Whether --data names a dataset of the hub or a folder of parquet files."""
    return str(data).startswith(HUB) or (data.is_dir() and next(data.rglob("*.parquet"), None) is not None)


def check_pyarrow(data: Path) -> None:
    """ValueError where pyarrow is not."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ValueError(
            f"--data {data}: parquet files need pyarrow: pip install 'attention-debiasing[data]'"
        ) from None


def laid_out(data: Path) -> Path:
    """The data root: LLaVA's layout of what the parquet files hold, in the cache; any other folder is itself."""
    if not is_parquet(data):
        return data
    check_pyarrow(data)
    name = str(data).removeprefix(HUB)
    parts = next((known.hub[name] for known in PUBLISHED.values() if name in known.hub), ("*.parquet",))
    root = fetched(name, parts, "dataset") if str(data).startswith(HUB) else data
    files = sorted(root.rglob("*.parquet"))
    seen = [(str(file.relative_to(root)), (at := file.stat()).st_size, at.st_mtime_ns) for file in files]
    out = cache_home() / "parquet" / hashlib.sha256(json.dumps([str(root.resolve()), seen]).encode()).hexdigest()[:16]
    if not out.is_dir():
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent) as draft:
            write(files, name, root, Path(draft, "root"))
            os.replace(Path(draft, "root"), out)
    return out


def write(files: Sequence[Path], dataset: str, top: Path, root: Path) -> None:
    """Every benchmark of the files of a dataset, which lie below `top`, in LLaVA's layout below `root`."""
    by_name: dict[str, tuple[Published, list[Path]]] = {}
    for file in files:
        name, known = held_by(file, f"{dataset}/{file.relative_to(top)}")
        by_name.setdefault(name, (known, []))[1].append(file)
    if "gqa pictures" in by_name and "gqa" not in by_name:
        first = by_name["gqa pictures"][1][0]
        raise ValueError(f"{first}: pictures of GQA without its questions; expected both folders")
    for name, (known, of_it) in by_name.items():
        known.write(rows(of_it), root, name)


def held_by(file: Path, place: str) -> tuple[str, Published]:
    """Which benchmark a file holds, and how that is published."""
    import pyarrow.parquet

    try:
        columns = frozenset(pyarrow.parquet.read_schema(file).names)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{file}: not a parquet file ({str(error).splitlines()[0]})") from None
    found = benchmark_of(columns, place)
    if found is None:
        known = "; ".join(f"{name}: {', '.join(sorted(known.columns))}" for name, known in PUBLISHED.items())
        raise ValueError(
            f"{file}: columns {', '.join(sorted(columns))} belong to no benchmark that is read so ({known})"
        )
    return found


def rows(files: Sequence[Path]) -> Rows:
    """(place, record) of every row of some files, a few in memory at a time."""
    import pyarrow.parquet

    for file in files:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(64):
            for record in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", record
