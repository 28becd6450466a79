"""Run a notebook's code from top to bottom without Jupyter, and write what its cells show into it.

python examples/run_notebook.py examples/tour.ipynb
python examples/run_notebook.py examples/tour.ipynb --repository OWNER/NAME    with a badge that opens it in Colab
"""

from __future__ import annotations

import argparse
import ast
import base64
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with new outputs and no traces of who ran it where. An error in a cell is an error here."""
    space: dict[str, Any] = {"__name__": "__main__"}
    cells = []
    for number, cell in enumerate(notebook["cells"], 1):
        source = "".join(cell["source"])
        clean = {"cell_type": cell["cell_type"], "id": f"cell-{number}", "metadata": {}, "source": lines(source)}
        if cell["cell_type"] == "code":
            count = 1 + sum(other["cell_type"] == "code" for other in cells)
            clean |= {"execution_count": count, "outputs": outputs(source, space, count)}
        cells.append(clean)
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def in_colab(notebook: dict[str, Any], path: str, repository: str) -> dict[str, Any]:
    """The notebook with two cells in front: a badge that opens it in Colab, and what installs the package there.

    path: of the notebook, from the root of the repository. repository: OWNER/NAME on GitHub.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"--repository {repository}: expected OWNER/NAME")
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    opens = f"https://colab.research.google.com/github/{repository}/blob/main/{path}"
    install = f'%pip install -q "attention-debiasing @ git+https://github.com/{repository}"'
    code = {"cell_type": "code", "execution_count": None, "outputs": []}
    front = [
        {"cell_type": "markdown", "id": "colab-1", "metadata": {}, "source": [f"[![Open in Colab]({badge})]({opens})"]},
        {**code, "id": "colab-2", "metadata": {}, "source": [install]},
    ]
    return {**notebook, "cells": [*front, *without_colab(notebook)["cells"]]}


def without_colab(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook without those two cells."""
    return {**notebook, "cells": [cell for cell in notebook["cells"] if not cell.get("id", "").startswith("colab-")]}


def outputs(source: str, space: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What one cell prints, and the value of its last line if that is an expression."""
    tree, printed = ast.parse(source), io.StringIO()
    if tree.body and isinstance(tree.body[-1], ast.Expr):  # its value goes to `_`, as in an interactive session
        tree.body[-1] = ast.Assign([ast.Name("_", ast.Store())], tree.body[-1].value)
    space["_"] = None
    with redirect_stdout(printed):
        exec(compile(ast.fix_missing_locations(tree), f"cell {count}", "exec"), space)
    value = space["_"]
    shown: list[dict[str, Any]] = []
    if printed.getvalue():
        shown.append({"name": "stdout", "output_type": "stream", "text": lines(printed.getvalue())})
    if value is not None:
        data: dict[str, Any] = {"text/plain": lines(re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value)))}
        if hasattr(value, "_repr_png_"):
            data["image/png"] = base64.b64encode(value._repr_png_()).decode()
        shown.append({"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"})
    return shown


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--repository", metavar="OWNER/NAME", help="on GitHub; adds a badge and an installation")
    args = parser.parse_args()
    made = run(without_colab(read(args.notebook)))
    if args.repository:
        made = in_colab(made, args.notebook.as_posix(), args.repository)
    args.notebook.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
