"""The training loop of every stage: a number of steps that can be interrupted and taken up again."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn


class Keeps(Protocol):
    """What a checkpoint can hold: a module, a curriculum."""

    def state_dict(self) -> Any:
        """What a checkpoint holds of it."""

    def load_state_dict(self, state: Any) -> Any:
        """Goes on from what a checkpoint holds."""


class Learner(Protocol):
    """A model in training: its parts by their names in checkpoints, and where it is."""

    device: str

    def modules(self) -> dict[str, Any]:
        """The parts that stages train and hand on."""


def command(doc: str | None, stages: Iterable[str]) -> argparse.ArgumentParser:
    """The flags that every training command has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(stages))
    parser.add_argument("--run", type=Path, required=True, help="folder for checkpoints and learning curves")
    parser.add_argument("--steps", type=int, help="how long the stage learns; for check, how many pictures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def begun(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The flags as they were given, with the threads and the folder that they name."""
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    flags.run.mkdir(parents=True, exist_ok=True)
    return flags


def recall(student: Learner, run: Path, *stages: str) -> None:
    """Puts what earlier stages have learned into the student's parts of the same names."""
    parts = student.modules()
    for stage in stages:
        path = run / f"{stage}.pt"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: run the stage {stage!r} first")
        state = torch.load(path, map_location=student.device, weights_only=True)
        for key in parts.keys() & state.keys():
            parts[key].load_state_dict(state[key])


def learn(
    run: Path,
    stage: str,
    modules: Mapping[str, Keeps],
    steps: int,
    rate: float,
    step_loss: Callable[[int, float], tuple[torch.Tensor, float]],
    report: Callable[[], Mapping[str, float]],
    cool: bool = True,
    warm_up: int = 200,
    slow: Collection[nn.Parameter] = (),
) -> None:
    """AdamW over a number of steps, warmed up, and cooled down in the last third if `cool`; `slow` at half the rate.

    modules: what a checkpoint holds, and whose parameters learn unless they are frozen.
    Saves every two minutes and goes on from there when it is started again.
    """
    layers = [module for module in modules.values() if isinstance(module, nn.Module)]
    parameters = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    halved = {id(p) for p in slow}
    groups = {
        (decay, share): [p for p in parameters if (p.ndim > 1) == (decay > 0) and (id(p) in halved) == (share < 1)]
        for share in (1.0, 0.5)
        for decay in (0.01, 0.0)
    }
    optimizer = torch.optim.AdamW(
        [{"params": own, "weight_decay": decay, "share": share} for (decay, share), own in groups.items() if own],
        lr=rate,
        betas=(0.9, 0.98),
    )
    saved, spent, step, smooth = run / f"{stage}.pt", 0.0, 0, None
    if saved.exists():
        state = torch.load(saved, map_location=parameters[0].device, weights_only=True)
        spent, step = state["spent"], state["step"]
        for key, module in modules.items():
            module.load_state_dict(state[key])
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])

    def keep(done: bool) -> None:
        state = {key: module.state_dict() for key, module in modules.items()} | {"spent": spent, "step": step}
        part = saved.with_suffix(".part")
        torch.save(state if done else state | {"optimizer": optimizer.state_dict()}, part)
        part.replace(saved)

    log = (run / f"{stage}.jsonl").open("a")
    last_saved = last_report = spent
    while step < steps:
        began = time.time()
        share = step / steps
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / warm_up)
            group["lr"] = rate * group["share"] * warm * (min(1.0, 0.02 + (1 - share) / 0.35) if cool else 1.0)
        loss, shown = step_loss(step, share)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        smooth = shown if smooth is None else 0.98 * smooth + 0.02 * shown
        step += 1
        spent += time.time() - began
        if spent - last_report > 60:
            line = {"step": step, "seconds": round(spent), "loss": round(smooth, 4), **report()}
            log.write(json.dumps(line) + "\n")
            log.flush()
            print(stage, line, flush=True)
            last_report = spent
        if spent - last_saved > 120:
            keep(done=False)
            last_saved = spent
    keep(done=True)
