"""Lets mkdocs read the repository as it lies: every page keeps its path, so that its links work on the site as well.

Source files that a page links to become pages themselves, with the file as their text.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
MEDIA = (".png", ".svg", ".md")
KINDS = {".py": "python", ".sh": "bash", ".toml": "toml", ".yml": "yaml", ".patch": "diff", ".ipynb": "json"}


def tracked() -> set[str]:
    """Paths that belong to the repository, also those that are new."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in names if name and (ROOT / name).exists() and not name.startswith(("third_party/", "."))}


def pages(names: set[str]) -> set[str]:
    return {name for name in names if name.endswith(".md") and not name.startswith(("tests/", "assets/tiny"))}


def linked(page: str) -> set[str]:
    """What a page links to, as paths from the root; nothing outside the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = (target for _, target, _ in LINK.findall(text) if "://" not in target)
    return {os.path.normpath(Path(page).parent / target) for target in targets}


def on_files(files: Files, config: Any) -> Files:
    names = tracked()
    written = pages(names)
    wanted = {target for page in written for target in linked(page)}
    found = [File(name, str(ROOT), config.site_dir, config.use_directory_urls)
             for name in sorted(written | {target for target in wanted & names if target.endswith(MEDIA)})]  # fmt: skip
    for target in sorted(wanted):
        if target in names and not target.endswith(MEDIA):
            found.append(shown(config, target, source(target)))
        elif (ROOT / target).is_dir() and any(name.startswith(f"{target}/") for name in names):
            found.append(shown(config, target, listing(target, names)))
    kept = (file for file in files if file.src_dir != config.docs_dir or file.src_uri in config.extra_css)
    return Files([*found, *kept])


def shown(config: Any, target: str, text: str) -> File:
    hidden = "---\nsearch: {exclude: true}\n---\n"
    return File.generated(config, f"{target}.md", content=hidden + text)


def source(name: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    return f"# {name}\n\n````{KINDS.get(Path(name).suffix, 'text')}\n{text}\n````\n"


def listing(folder: str, names: set[str]) -> str:
    return f"# {folder}/\n\n" + "".join(f"- `{name}`\n" for name in sorted(names) if name.startswith(f"{folder}/"))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to source files lead to the pages that show them."""
    here = Path(page.file.src_uri).parent

    def led(match: re.Match[str]) -> str:
        target = os.path.normpath(here / match[2])
        there = "://" not in match[2] and files.get_file_from_path(f"{target}.md")
        return f"{match[1]}{match[2].rstrip('/')}.md{match[3]}" if there else match[0]

    return LINK.sub(led, markdown)
