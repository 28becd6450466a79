"""Write one of the embedded models as a plain Hugging Face checkpoint, for any tool that reads them.

examples:
  python -m eval export-model smol DIR
  python -m eval export-model tiny DIR
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from debias.names import one_of
from eval.core.embedded import BARE, EMBEDDED, SMOL, named
from eval.core.tables import say

NAMES = {SMOL: SMOL, BARE: BARE, "tiny": str(EMBEDDED["image"]), "tiny-video": str(EMBEDDED["video"])}


def arguments(parser: argparse.ArgumentParser) -> None:
    """The name of the model, and the folder for it."""
    parser.add_argument("name", help=f"which model: {', '.join(NAMES)}")
    parser.add_argument("folder", type=Path, help="a new or empty folder to write it to")


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Copies the model's folder."""
    source = NAMES[one_of("model", args.name, list(NAMES))]
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        raise ValueError(f"{args.folder} is there already; name a new or an empty folder")
    shutil.copytree(named(source), args.folder, dirs_exist_ok=True)
    files = sorted(path.name for path in args.folder.iterdir())
    say(f"{args.name} written to {args.folder}: {', '.join(files)}")
    return {"model": args.name, "folder": str(args.folder), "files": files}
