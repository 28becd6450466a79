"""Completion in the shell, for the installed command `debias`: subcommands, flags, methods, benchmarks, arms, files.

examples:
  debias completion bash > ~/.local/share/bash-completion/completions/debias
  debias completion zsh > ~/.zfunc/_debias                     ~/.zfunc on the fpath, before compinit
  debias completion fish > ~/.config/fish/completions/debias.fish

A new shell knows it. Write it again after an update.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eval.core.tables import tell

SHELLS = ("bash", "zsh", "fish")
FOLDERS = ("model", "video_model", "data", "images", "run", "runs")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The name of the shell."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the shell's script; returns it."""
    script = written(args.shell)
    if not args.json:
        tell(script)
    return {"shell": args.shell, "script": script}


def written(shell: str) -> str:
    """The script that the shell reads."""
    import shtab

    return str(shtab.complete(everything(), shell=shell))


def everything() -> argparse.ArgumentParser:
    """One parser of all subcommands, with what may follow each flag."""
    from eval.cli import COMMANDS, build

    parser = argparse.ArgumentParser(prog="debias", description="Attention debiasing for visual-token pruning.")
    commands = parser.add_subparsers()
    for name, line in COMMANDS.items():
        built = build(name)[0]
        own = commands.add_parser(name, help=line, add_help=False, parents=[built], conflict_handler="resolve")
        if takes := built.get_default("takes_fields"):
            for flag in sorted(takes() - own._option_string_actions.keys()):
                own.add_argument(flag, help="of some methods")
        for action in own._actions:
            follow(action)
    return parser


def follow(action: argparse.Action) -> None:
    """What may stand behind a flag, where argparse does not know it."""
    import shtab

    from debias import names
    from eval import benchmarks
    from pruners import catalogue

    known = {"method": (*catalogue.names(), "all"), "benchmarks": benchmarks.NAMES, "arms": (*names.ARMS, "unpruned")}
    if action.dest in known:
        action.choices = known[action.dest]
    elif action.dest in FOLDERS:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif action.type is Path or action.dest == "out":
        action.complete = shtab.FILE  # type: ignore[attr-defined]
