"""Lets mkdocs read the repository as it lies: every page keeps its path, so that its links work on the site as well.

Source files that a page links to become pages themselves, with the file as their text.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
WHERE = ("*.md", "docs/*.md", "examples/*.md", "assets/figures/*.md")
MEDIA = (".png", ".svg")
KINDS = {".py": "python", ".sh": "bash", ".toml": "toml", ".yml": "yaml", ".patch": "diff"}


def pages() -> set[str]:
    return {path.relative_to(ROOT).as_posix() for where in WHERE for path in ROOT.glob(where)}


def linked(page: str) -> set[str]:
    """What a page links to, as paths from the root; nothing outside the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = (target for _, target, _ in LINK.findall(text) if "://" not in target)
    paths = {os.path.normpath(Path(page).parent / target) for target in targets}
    return {path for path in paths if not path.startswith("..") and (ROOT / path).exists()}


def on_files(files: Files, config: Any) -> Files:
    written = pages()
    wanted = {target for page in written for target in linked(page)} - written
    media = {target for target in wanted if target.endswith(MEDIA)}
    found = [File(name, str(ROOT), config.site_dir, config.use_directory_urls) for name in sorted(written | media)]
    for target in sorted(wanted - media):
        text = listing(target) if (ROOT / target).is_dir() else source(target)
        found.append(shown(config, target, text))
    kept = (file for file in files if file.src_dir != config.docs_dir or file.src_uri in config.extra_css)
    return Files([*found, *kept])  # and what is the theme's


def shown(config: Any, target: str, text: str) -> File:
    hidden = "---\nsearch: {exclude: true}\n---\n"
    name = f"{target}.md"
    return File.generated(config, name, content=hidden + text, inclusion=InclusionLevel.NOT_IN_NAV)


def source(name: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".ipynb"):
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
        return "\n\n".join(f"```python\n{cell}\n```" if kind == "code" else cell for kind, cell in cells)
    return f"# {name}\n\n````{KINDS.get(Path(name).suffix, 'text')}\n{text}\n````\n"


def listing(folder: str) -> str:
    return f"# {folder}/\n\n" + "".join(f"- `{path.name}`\n" for path in sorted((ROOT / folder).iterdir()))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to source files lead to the pages that show them."""
    here = Path(page.file.src_uri).parent

    def led(match: re.Match[str]) -> str:
        target = os.path.normpath(here / match[2])
        there = "://" not in match[2] and files.get_file_from_path(f"{target}.md")
        return f"{match[1]}{match[2].rstrip('/')}.md{match[3]}" if there else match[0]

    return LINK.sub(led, markdown)
