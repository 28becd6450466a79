"""Where a fork's code, its patch and its environment are, and what to run when one of them is not there."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

from eval.core.files import toml

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Setup:
    """A section of patches/series.toml. needs: another submodule that this code stands on or under; patch: the section
    whose patch serves this fork too."""

    name: str
    submodule: str
    commit: str
    environment: str
    path: list[str]
    files: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    needs: str | None = None
    patch: str | None = None

    @property
    def folder(self) -> Path:
        """The submodule."""
        return ROOT / "third_party" / self.submodule

    @property
    def python(self) -> Path:
        """The interpreter of its environment, which need not be there."""
        return ROOT / f".venv-forks-{self.environment}" / "bin" / "python"

    @property
    def patched(self) -> bool:
        """Whether our lines are in; a file that is neither as pinned nor our result is refused."""
        if self.patch is not None:
            return setup(self.patch).patched
        states: set[bool] = set()
        for file in self.files:
            blob = blob_id(self.folder / file["name"])
            if blob not in (file["before"], file["after"]):
                raise ValueError(
                    f"{self.folder / file['name']} is not the file that patches/{self.name}.patch was made for. "
                    f"Restore the pin: git submodule update --init --force third_party/{self.submodule}"
                )
            states.add(blob == file["after"])
        if len(states) > 1:
            raise ValueError(
                f"third_party/{self.submodule} is half patched; run: bash scripts/apply_patches.sh {self.name}"
            )
        return states.pop()


def setups() -> dict[str, Setup]:
    """All sections of patches/series.toml, by name."""
    series = ROOT / "patches" / "series.toml"
    if not series.is_file():
        raise ValueError("the authors' code runs in a clone of the repository only; there: bash setup.sh --forks")
    parsed = toml(series.read_text(encoding="utf-8"))
    return {name: Setup(name=name, **section) for name, section in parsed.items()}


def setup(name: str) -> Setup:
    """The section of a name; a ValueError lists those that there are."""
    known = setups()
    if name not in known:
        raise ValueError(f"the authors' code is here for {', '.join(known)}; not for {name}. Use --backend native")
    return known[name]


def films(method: str) -> bool:
    """Whether the authors' code of a method runs under Video-LLaVA."""
    return method == "fastv"


def code_of(method: str, film: bool = False) -> str:
    """The section whose code runs a method: the method's own, or Video-LLaVA with FastV's LLaMA in it."""
    if film and not films(method):
        raise ValueError(
            f"of the authors' code only FastV's runs under Video-LLaVA, since it sits in the LLaMA of transformers; "
            f"{method} sits in a LLaVA of its own. For clips use --backend native, or --method fastv"
        )
    return "video-llava" if film else method


def blob_id(path: Path) -> str:
    """What git calls the content of a file."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def environment(name: str) -> tuple[Path, str]:
    """The interpreter of a fork and the PYTHONPATH that reaches its code and ours; or what to run to get them."""
    wanted = setup(name)
    how = f"Get it with: bash setup.sh --forks {name}"
    for folder in [wanted.folder, *([ROOT / "third_party" / wanted.needs] if wanted.needs else [])]:
        if not (folder / ".git").exists():
            raise ValueError(f"the authors' code of {name} is not here: {folder.relative_to(ROOT)} is empty. {how}")
    if not wanted.python.exists():
        raise ValueError(f"the environment of {name} is not here: {wanted.python.relative_to(ROOT)} is missing. {how}")
    return wanted.python, os.pathsep.join([*(str(ROOT / part) for part in wanted.path), str(ROOT)])


def described(name: str) -> str:
    """Whose code answers, for the record of a run: repository, commit, and whether our lines are in."""
    environment(name)
    wanted = setup(name)
    own = setup(wanted.patch) if wanted.patch else wanted
    under = f" in {wanted.submodule}@{wanted.commit[:7]}" if wanted.patch else ""
    return f"fork {own.submodule}@{own.commit[:7]}{under}{'' if wanted.patched else ' unpatched'}"
