"""A run for TensorBoard, or for Weights & Biases: scores, differences, the verdict, and the tables in full."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.answering.store import Folder
from eval.core import tables
from eval.scoring.compare import Outcome
from eval.scoring.results import Scored

NEEDS = "pip install 'attention-debiasing[trackers]'"


def numbers(scored: Sequence[Scored], seen: Outcome) -> dict[str, float]:
    """The scores as "pope/none", and the differences as "pope/both − none"; "average/both − none" is among them."""
    scores = {
        f"{entry.benchmark.name}/{arm}": result.score.value for entry in scored for arm, result in entry.arms.items()
    }
    return scores | {f"{entry.benchmark}/{entry.b} − {entry.a}": entry.delta for entry in seen.contrasts}


def to_tensorboard(scored: Sequence[Scored], seen: Outcome, out: Path) -> Path:
    """Event files in the folder `out`, for `tensorboard --logdir`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(f"--tensorboard needs tensorboard: {NEEDS}") from None
    writer: Any = SummaryWriter(str(out))
    with writer:
        for name, value in numbers(scored, seen).items():
            writer.add_scalar(name, value)
        writer.add_text("verdict", seen.verdict)
        writer.add_text("tables", "\n\n".join(map(tables.markdown, seen.full)))
    return out


def to_wandb(folder: Folder, scored: Sequence[Scored], seen: Outcome, project: str) -> Path:
    """A run of the project: offline, as files in the run folder, unless WANDB_MODE says otherwise."""
    try:
        import wandb
    except ImportError:
        raise ValueError(f"--wandb needs wandb: {NEEDS}") from None
    info, client = folder.info(), wandb  # type: Any, Any
    run = client.init(
        project=project,
        name=folder.path.name,
        config={"run": info["run"], **info["settings"]},
        dir=str(folder.path),
        mode=os.environ.get("WANDB_MODE", "offline"),
    )
    run.summary.update({**numbers(scored, seen), "verdict": seen.verdict})
    for number, table in enumerate(seen.full):
        rows = [[tables.text(cell) for cell in row] for row in table.rows]
        run.log({f"table-{number}": client.Table(columns=list(table.head), data=rows)})
    place = Path(run.dir).parent
    run.finish()
    return place
