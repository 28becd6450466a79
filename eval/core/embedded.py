"""What ships with the program: the embedded models, and the tables that `reproduce` reads.

They stand in the repository's assets folder; an installed wheel holds its copy in `eval/assets`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVAL = Path(__file__).resolve().parents[1]
ASSETS = EVAL / "assets" if (EVAL / "assets").is_dir() else EVAL.parent / "assets"
SMOL = "smol"  # the name of the model that is put together from a package and what was trained here
BARE = "smol-bare"  # the same with its language model as it was pretrained, before it learned about pictures
EMBEDDED = {"image": ASSETS / "tiny-llava", "video": ASSETS / "tiny-video-llava"}


def shipped(name: str) -> Path:
    """A file or folder of the assets, which a repackaged program may lack."""
    path = ASSETS / name
    if not path.exists():
        raise ValueError(f"{path} is missing: this installation came without it; reinstall, or use a clone")
    return path


@dataclass(frozen=True)
class World:
    """The drawn world that a model is shown where no data is named.

    name       as messages and records call it
    questions  of a size, a half, and the benchmarks that are asked for: the data root, written on first use
    scene      of a seed: what is drawn
    released   whether trends that were released may be divided by where a model has none of its own
    boxes      whether models of it were taught to answer with a box
    """

    name: str
    questions: Callable[[str, str, Sequence[str]], Path]
    scene: Callable[[int], Any]
    released: bool = True
    boxes: bool = True


def world_of(model: str | Path | None) -> World:
    """The world of a model: smol's own, by the model's name or by what its folder says, or the tiny world."""
    from tiny import benchmarks
    from tiny.drawn import world
    from tiny.smol import data as smol_data
    from tiny.smol import world as smol_world

    if model in (SMOL, BARE) or (model is not None and origin(Path(model)).get("world") == SMOL):
        # boxes only for those who ask for them: a run without a list of benchmarks asks what smol can answer
        return World(
            "world of smol",
            lambda size, half, asked: smol_data.ensure(size, half, boxes="refcoco" in asked),
            smol_world.smol_scene,
            released=False,
            boxes=False,
        )
    return World("tiny world", lambda size, half, _: benchmarks.ensure(size=size, half=half), world.scene)


def origin(folder: Path) -> dict[str, Any]:
    """What a folder of ours says about where it comes from; {} of every other folder."""
    try:
        told = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or somebody else's file of this name
        return {}
    return told if isinstance(told, dict) else {}


def data_of(
    model: str | Path | None, size: str = "default", half: str = "scored", benchmarks: Sequence[str] = ()
) -> Path:
    """The questions of a model's world.

    half: `scored`, or `heldout` for everything that is fitted. benchmarks: what is asked for by name, if anything is.
    """
    return world_of(model).questions(size, half, benchmarks)


def named(model: str) -> str:
    """The folder of a model that goes by a name of ours; every other model is a folder or hub id already."""
    if model not in (SMOL, BARE):
        return model
    from tiny.smol import folder as smol_folder

    return str(smol_folder.finished(ASSETS / "smol-llava", bare=model == BARE))
