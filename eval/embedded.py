"""What ships with the program: the embedded models, and the tables that `reproduce` reads.

They stand in the repository's assets folder; an installed wheel holds its copy beside this file.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
ASSETS = HERE / "assets" if (HERE / "assets").is_dir() else HERE.parent / "assets"
SMOL = "smol"  # the name of the model that is put together from a package and what was trained here
EMBEDDED = {"image": ASSETS / "tiny-llava", "video": ASSETS / "tiny-video-llava"}


def shipped(name: str) -> Path:
    """A file or folder of the assets, which a repackaged program may lack."""
    path = ASSETS / name
    if not path.exists():
        raise ValueError(f"{path} is missing: this installation came without it; reinstall, or use a clone")
    return path


def named(model: str) -> str:
    """The folder of a model that goes by a name of ours; every other model is a folder or hub id already."""
    if model != SMOL:
        return model
    from tiny import smol_folder

    return str(smol_folder.finished(ASSETS / "smol-llava"))
