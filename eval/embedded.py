"""What ships with the program: the embedded models, and the tables that `reproduce` reads.

They stand in the repository's assets folder; an installed wheel holds its copy beside this file.
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
ASSETS = HERE / "assets" if (HERE / "assets").is_dir() else HERE.parent / "assets"
SMOL = "smol"  # the name of the model that is put together from a package and what was trained here
BARE = "smol-bare"  # the same with its language model as it was pretrained, before it learned about pictures
EMBEDDED = {"image": ASSETS / "tiny-llava", "video": ASSETS / "tiny-video-llava"}


def shipped(name: str) -> Path:
    """A file or folder of the assets, which a repackaged program may lack."""
    path = ASSETS / name
    if not path.exists():
        raise ValueError(f"{path} is missing: this installation came without it; reinstall, or use a clone")
    return path


def data_of(model: str | Path | None, size: str = "default", half: str = "scored") -> Path:
    """The questions that belong to a model, written on first use: those of smol's own world, or of the tiny one.

    half: `scored`, or `heldout` for everything that is fitted.
    """
    from tiny import benchmarks, smol_data

    return smol_data.ensure(size, half) if is_smol(model) else benchmarks.ensure(size=size, half=half)


def is_smol(model: str | Path | None) -> bool:
    """Whether a model is smol: by its name, or by what its folder says about where it comes from."""
    origin = Path(model or "") / "origin.json"
    if model is None or model in (SMOL, BARE) or not origin.is_file():
        return model in (SMOL, BARE)
    try:
        told = json.loads(origin.read_text(encoding="utf-8"))
    except ValueError:  # somebody else's file of this name
        return False
    return isinstance(told, dict) and told.get("world") == SMOL


def world_of(model: str | Path | None) -> str:
    """What the drawn world of a model is called."""
    return "world of smol" if is_smol(model) else "tiny world"


def named(model: str) -> str:
    """The folder of a model that goes by a name of ours; every other model is a folder or hub id already."""
    if model not in (SMOL, BARE):
        return model
    from tiny import smol_folder

    return str(smol_folder.finished(ASSETS / "smol-llava", bare=model == BARE))
