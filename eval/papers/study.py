"""A study that is planned before it is run: its plan, and whether history shows that the plan came first.

A plan is a TOML file below assets/studies. A result may be called confirmed when the very bytes of its plan stand in a
commit that the code of the run descends from and that is older than the run, and the run asked what the plan says.
"""

from __future__ import annotations

import hashlib
import subprocess  # nosec B404  # git alone, by its full path and without a shell
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from shutil import which
from typing import Any

from eval.core.files import toml

ARMS = ("none", "trend", "padding", "both")


@dataclass(frozen=True)
class Comparison:
    """One arm against another at one layer and budget."""

    layer: int
    keep: int
    arm: str
    baseline: str = "none"


@dataclass(frozen=True)
class Plan:
    """What a study asks of which model, and the one comparison that it is judged by."""

    path: Path
    name: str
    model: str
    primary: Comparison
    secondary: tuple[Comparison, ...]
    pictures: dict[str, Any] = field(repr=False)
    calibration: dict[str, Any] = field(repr=False)
    cuts: dict[str, Any] = field(repr=False)  # method, layers, keep, arms, dtype
    level: float = 0.05
    digest: str = ""


def load(path: Path) -> Plan:
    """Reads a plan; what is wrong with it is said before anything is asked."""
    raw = path.read_bytes()
    try:
        told = toml(raw.decode("utf-8"))
        cuts, first = told["cuts"], told["primary"]
        primary = Comparison(first["layer"], first["keep"], first["arm"], first["baseline"])
        every = [Comparison(k, n, arm) for k in cuts["layers"] for n in cuts["keep"] for arm in cuts["arms"][1:]]
        plan = Plan(
            path,
            told["name"],
            told["model"],
            primary,
            tuple(comparison for comparison in every if comparison != primary),
            told["pictures"],
            told["calibration"],
            cuts,
            told["statistics"]["level"],
            hashlib.sha256(raw).hexdigest(),
        )
    except (KeyError, ValueError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: expected the plan of a study as a TOML file, but {why}") from None
    if primary not in every:
        raise ValueError(f"{path}: the primary comparison {primary} is none of those that [cuts] makes")
    if unknown := sorted({*cuts["arms"]} - {*ARMS}):
        raise ValueError(f"{path}: unknown arm {unknown[0]!r}; known: {', '.join(ARMS)}")
    overlap = _seeds(plan.pictures) & _seeds(plan.calibration)
    if overlap:
        raise ValueError(f"{path}: [pictures] and [calibration] share seeds from {min(overlap)} on")
    return plan


def _seeds(part: dict[str, Any]) -> set[int]:
    """At least those that a part asks for; ten times as many, because some are passed over."""
    return set(range(part["first"], part["first"] + 10 * part["n"]))


@dataclass(frozen=True)
class Confirmation:
    """Whether a run may be called a confirmation of its plan; if not, why."""

    confirmed: bool
    why: str
    commit: str = ""


def verdict(plan: Plan, commit: str, begun: datetime) -> Confirmation:
    """For a run of the code of `commit` that began at `begun` (with its time zone)."""
    if begun.tzinfo is None:
        raise ValueError(f"the run began at {begun}: expected a time with its zone")
    try:
        top = Path(_git(plan.path.resolve().parent, "rev-parse", "--show-toplevel").decode().strip())
        name = plan.path.resolve().relative_to(top.resolve()).as_posix()
        _git(top, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    except (OSError, subprocess.CalledProcessError):
        return Confirmation(False, f"{plan.path} and the commit {commit or 'of the run'} are not in one git history")
    for version, when in _versions(top, name, commit):
        shown = _git(top, "show", f"{version}:{name}")
        if hashlib.sha256(shown).hexdigest() == plan.digest:
            if when >= begun:
                return Confirmation(False, f"the plan was committed at {when}, after the run began at {begun}", version)
            return Confirmation(True, f"the plan is in commit {version[:12]} of {when}, before the run", version)
    return Confirmation(False, f"{name} as it is now is in no commit before {commit[:12]}: commit the plan, then run")


def head(folder: Path) -> str:
    """The commit of a clone's files, for a run to take down when it begins; "" where the files are not those of one."""
    try:
        if _git(folder, "status", "--porcelain", "--untracked-files=no").strip():
            return ""
        return _git(folder, "rev-parse", "HEAD").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _versions(top: Path, name: str, commit: str) -> Iterator[tuple[str, datetime]]:
    """The commits up to `commit` that changed a file, oldest first, and when each was made."""
    told = _git(top, "log", "--reverse", "--diff-filter=AMR", "--format=%H %ct", commit, "--", name).decode()
    for line in told.splitlines():
        version, seconds = line.split()
        yield version, datetime.fromtimestamp(int(seconds), timezone.utc)


def _git(folder: Path, *words: str) -> bytes:
    program = which("git")
    if program is None:
        raise OSError("git is not installed")
    return subprocess.run([program, "-C", str(folder), *words], capture_output=True, check=True).stdout  # nosec B603
