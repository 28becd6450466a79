"""The tiny world written as the thirteen benchmarks and RefCOCO, in the layouts that LLaVA and Video-LLaVA read.

root = ensure()                       # a data root like playground/data/eval, made on first use, the same every time
python -m tiny.benchmarks --out DIR --size full --half heldout
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tiny.layouts import choice as layouts_choice
from tiny.layouts import media as layouts_media
from tiny.layouts import vqa as layouts_vqa
from tiny.layouts.lots import HALVES, Lots

SIZES = {
    "ci": 12,
    "default": 96,
    "full": 480,
}  # questions a benchmark has, more or less: some come in pairs and rotations

WRITERS: dict[str, Callable[[Lots], None]] = {
    "gqa": layouts_vqa.gqa,
    "vqav2": layouts_vqa.vqav2,
    "vizwiz": layouts_vqa.vizwiz,
    "textvqa": layouts_vqa.textvqa,
    "pope": layouts_vqa.pope,
    "mme": layouts_vqa.mme,
    "scienceqa": layouts_choice.scienceqa,
    "mmbench": layouts_choice.mmbench,
    "mmbench_cn": layouts_choice.mmbench_cn,
    "mmvet": layouts_vqa.mmvet,
    "tgif": layouts_media.tgif,
    "msvd": layouts_media.msvd,
    "msrvtt": layouts_media.msrvtt,
    "refcoco": layouts_media.refcoco,
}


def write(root: Path, size: str = "default", half: str = "scored", names: tuple[str, ...] = tuple(WRITERS)) -> None:
    """Writes the named benchmarks below `root`. The halves share no scene, nor do they with training."""
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; there are {', '.join(SIZES)}")
    if half not in HALVES:
        raise ValueError(f"unknown half {half!r}; there are {', '.join(HALVES)}")
    for name in names:
        WRITERS[name](Lots(name, tuple(WRITERS).index(name), SIZES[size], half, root=root))


def ensure(out: Path | None = None, size: str = "default", half: str = "scored") -> Path:
    """The data root, written if it is not there yet."""
    return cached(f"{size}-{half}", lambda root: write(root, size, half), out)


def cached(name: str, writer: Callable[[Path], None], out: Path | None = None) -> Path:
    """A data root in `out` or in the cache. It is complete or absent, also when two processes come at once."""
    root = Path(out) if out else _cache() / f"{name}-{_version()}"

    def complete(folder: Path) -> bool:
        return (folder / ".complete").exists()

    def write_all(folder: Path) -> None:
        writer(folder)
        (folder / ".complete").touch()

    if complete(root):
        return root
    if root.exists() and any(root.iterdir()):
        raise ValueError(f"{root} holds files that were not written here; name an empty or a new folder")
    print(f"tiny: writing the questions {name} to {root}", file=sys.stderr)
    whole(root, complete, write_all)
    return root


def whole(folder: Path, complete: Callable[[Path], bool], writer: Callable[[Path], None]) -> None:
    """Has a folder written beside its place and moved there: it is complete or absent, whoever else writes it, too."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        writer(made)
        made.chmod(0o755)
        try:
            made.replace(folder)
        except OSError:  # somebody else was first
            if not complete(folder):
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def user_cache() -> Path:
    """The user's folder for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "debias"


def _cache() -> Path:
    """Inside a clone: its own .cache; installed as a package: the user's."""
    clone = Path(__file__).parent.parent
    if (clone / "pyproject.toml").exists() and os.access(clone, os.W_OK):
        return clone / ".cache" / "tiny"
    return user_cache() / "tiny"


def _version() -> str:
    """Names the files by the code that wrote them: changed code never meets old files."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        if path.name != "train.py":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def main(arguments: list[str] | None = None) -> None:
    """Writes a data root and prints where it is."""
    parser = argparse.ArgumentParser(prog="python -m tiny.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to (default: a cache folder)")
    parser.add_argument("--size", choices=SIZES, default="default")
    parser.add_argument("--half", choices=HALVES, default="scored", help="heldout: for fitting trends, never scored")
    options = parser.parse_args(arguments)
    print(ensure(options.out, options.size, options.half))


if __name__ == "__main__":
    main()
