"""The command line: one table of subcommands, each a module that is imported only when it is asked for.

A subcommand is a module with one function, `command(parser)`: it adds its arguments to the parser and returns the
function that does the work. That function gets the parsed arguments and returns a JSON-able dict (or None). A
ValueError, OSError, ImportError or RuntimeError in it is a message for a person and exit status 1; with `--json` the
dict is the only thing written to standard output. What a command shows (tables, progress) goes to standard error.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from eval.tables import say

Work = Callable[[argparse.Namespace], "dict[str, Any] | None"]

# name -> (module, one line for the overview)
COMMANDS = {
    "run": ("eval.run", "answer benchmarks with a method, with and without debiasing, and compare"),
    "score": ("eval.score", "score an answer file in LLaVA's format, whoever wrote it"),
    "compare": ("eval.compare", "paired differences between the arms of run folders"),
    "average": ("eval.averages", "named averages over benchmarks, such as the paper's of ten"),
    "fit": ("eval.fit", "fit the positional trend of a model's attention"),
    "export": ("eval.export", "write and validate a submission file"),
    "parity": ("eval.parity", "compare native methods with the authors' code"),
    "diagnose": ("eval.diagnose", "measure recency, padding and sinks in a model's attention"),
    "figures": ("eval.figures", "draw the figures of runs and diagnoses"),
    "speed": ("eval.speed", "time and memory with and without pruning"),
    "report": ("eval.report", "one self-contained HTML page of a run folder"),
    "reproduce": ("eval.reproduce", "the paper's tables, from runs to numbers"),
}


class Parser(argparse.ArgumentParser):
    """argparse with exit status 2, the nearest name for a misspelt one, and examples kept as written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            flags = [word for word in message.split()[2:] if word.startswith("-")]
            message += "".join(nearest(flag.split("=")[0], self._option_string_actions) for flag in flags)
        say(f"{self.prog}: {message}\nTry: {self.prog} --help")
        raise SystemExit(2)


def nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, [str(name) for name in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def one_of(kind: str, word: str, known: Sequence[str]) -> str:
    """`word`, when it is known; else a ValueError with the nearest name and all of them."""
    if word in known:
        return word
    raise ValueError(f"unknown {kind} {word!r}{nearest(word, known)}. Known: {', '.join(known)}")


def installed() -> dict[str, str]:
    """The subcommands whose module is part of this installation."""
    return {name: line for name, (module, line) in COMMANDS.items() if importlib.util.find_spec(module)}


def overview() -> str:
    lines = ["usage: python -m eval COMMAND [FLAGS]", "", "commands:"]
    lines += [f"  {name:<10} {line}" for name, line in installed().items()]
    lines += ["", "python -m eval COMMAND --help shows the flags of one command, with examples.",
              "Every command takes --json: one JSON object on standard output and nothing else there.",
              "Exit status: 0 done, 1 something asked for could not be done, 2 bad usage."]  # fmt: skip
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else 2
    name, rest = words[0], words[1:]
    if name not in installed():
        say(f"python -m eval: unknown command {name!r}{nearest(name, installed())}\n\n{overview()}")
        return 2
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "httpcore", "openai", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    debug = os.environ.get("DEBIAS_DEBUG") == "1"
    try:
        module = importlib.import_module(COMMANDS[name][0])
        parser = Parser(prog=f"python -m eval {name}", description=module.__doc__)
        parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
        work: Work = module.command(parser)
        # A command that takes a method's fields gets the flags that are none of its own as `fields`.
        fields = parser.get_default("takes_fields")
        args, args_fields = parser.parse_known_args(rest) if fields else (parser.parse_args(rest), [])
        if fields:
            args.fields = args_fields
        result = work(args)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        say("stopped; start the same command again to continue")
        return 130
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if debug:
            raise
        say(f"python -m eval {name}: {error}")
        return 1
    if args.json:
        json.dump(result or {}, sys.stdout, ensure_ascii=False, allow_nan=False, default=str)
        sys.stdout.write("\n")
    return int((result or {}).get("exit", 0))
