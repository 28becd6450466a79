"""The command line: one table of subcommands, each a module that is imported only when it is asked for.

A subcommand is a module with two functions. `arguments(parser)` adds its arguments to the parser; `work(args)` gets the
parsed arguments and returns a JSON-able dict (or None). A ValueError, OSError, ImportError or RuntimeError in it is a
message for a person and exit status 1; with `--json` the dict is the only thing written to standard output. What a
command shows (tables, progress) goes to standard error.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from debias.names import nearest
from eval.core import embedded, versions
from eval.core.fields import Misuse, refused
from eval.core.files import writable
from eval.core.tables import Spoken, say, tell, tell_json

Work = Callable[[argparse.Namespace], "dict[str, Any] | None"]

# name -> one line for the overview
COMMANDS = {
    "run": "answer benchmarks with a method, with and without debiasing, and compare",
    "show": "one picture, one question: the answer and the kept tokens in every arm",
    "serve": "answer OpenAI's chat completions with any method and arm",
    "demo": "a page in the browser: drop a picture, ask, see what every arm keeps",
    "score": "score an answer file in LLaVA's format, from any script",
    "compare": "paired differences between the arms of run folders",
    "average": "named averages over benchmarks, such as the paper's of ten",
    "fit": "fit the positional trend of a model's attention",
    "export": "write and validate a submission file",
    "parity": "compare native methods with the authors' code",
    "diagnose": "measure recency, padding and sinks in a model's attention",
    "figures": "draw the figures of runs and diagnoses",
    "speed": "time and memory with and without pruning",
    "gpu": "everything that is measured on a GPU, in steps of minutes",
    "throughput": "questions a second of a whole evaluation, and what sharing brings",
    "scale": "what a whole study costs in GPU hours, on how many GPUs",
    "report": "one self-contained HTML page of a run folder",
    "reproduce": "the paper's tables, from runs to numbers",
    "study": "run a planned study, and say whether it confirms its plan",
    "export-model": "write an embedded model as a plain Hugging Face checkpoint",
    "vlmevalkit": "run VLMEvalKit on pruned models, from its own checkout",
    "completion": "completion of commands, flags and names for bash, zsh or fish",
}

EXAMPLES = {
    "run --method fastv": "FastV in four arms on the embedded model and data",
    'show photo.jpg "What is this?"': "one picture: the answer and the kept tokens in every arm",
    "run --method all --keep 64 --limit 200": "every method, 200 questions of each benchmark",
    "compare runs/fastv": "the arms of a run, paired, with intervals",
    "diagnose --model llava-hf/llava-1.5-7b-hf": "how biased a model's attention is; needs no benchmark",
}


WRITTEN = ("out", "plot", "judge_cache")  # flags that name a file or a folder to write


class Help(argparse.RawDescriptionHelpFormatter):
    """Descriptions are kept as they are written, and a flag's default follows its help unless that names it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = isinstance(action.default, str | int | float | Path) and not isinstance(action.default, bool)
        if not told or action.default == argparse.SUPPRESS or "default" in (action.help or ""):
            return action.help
        return f"{action.help} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """argparse with a usage of one line, the nearest name for a misspelt name, and examples kept as written."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(formatter_class=Help, allow_abbrev=False, **kwargs)

    def format_help(self) -> str:
        """The usage names what has to be given; the flags are listed below it anyway."""
        words = [self.prog]
        for action in self._actions:
            name = action.metavar or action.dest.upper()
            many = f"{name} ..." if action.nargs in ("+", "*") else str(name)
            if not action.option_strings:
                words.append(many if action.required else f"[{many}]")
            elif action.required:
                words.append(f"{action.option_strings[0]} {many}")
        self.usage = " ".join([*words, "[FLAGS]"]).replace("%", "%%")
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            flags = [word for word in message.split()[2:] if word.startswith("-")]
            message += "".join(nearest(flag.split("=")[0], self._option_string_actions) for flag in flags)
        if choice := re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
            message += nearest(choice[1], re.findall(r"[^', ]+", choice[2]))
        say(f"{self.prog}: {message}\nTry: {self.prog} --help")
        raise SystemExit(2)


def program() -> str:
    """What the user typed to get here."""
    return "debias" if Path(sys.argv[0]).stem == "debias" else "python -m eval"


def build(name: str) -> tuple[Parser, Work]:
    """The parser of a subcommand, and what it does."""
    module = importlib.import_module(f"eval.commands.{name.replace('-', '_')}")
    described = (module.__doc__ or "").replace("python -m eval", program())
    parser = Parser(prog=f"{program()} {name}", description=described)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    module.arguments(parser)
    return parser, module.work


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the words. Flags of methods' fields, which some commands take, stay words: `args.fields`."""
    takes = parser.get_default("takes_fields")
    if takes is None:
        return parser.parse_args(words)
    args, given = parser.parse_known_args(words)
    args.fields = given
    known = {*parser._option_string_actions, *takes()}
    for word in given:
        flag = word.split("=")[0].split(".")[0].replace("_", "-")
        if word.startswith("--") and flag not in known:
            parser.error(f"unknown flag {word}{nearest(flag, known)}")
    return args


def overview() -> str:
    """The help page of the whole program: usage, examples, commands."""
    prog = program()
    lines = [f"usage: {prog} COMMAND [FLAGS]", "", "examples:"]
    lines += [f"  {prog} {words:<44} {what}" for words, what in EXAMPLES.items()]
    lines += ["", "commands:", *(f"  {name:<11} {line}" for name, line in COMMANDS.items()), ""]
    lines += [f"{prog} COMMAND --help shows the flags of one command, with examples.",
              "Every command takes --json: one JSON object on standard output and nothing else there.",
              "Exit status: 0 done, 1 begun and not done, 2 refused before anything was begun."]  # fmt: skip
    return "\n".join(lines)


def outside(error: Exception) -> str:
    """What to do where this Python lacks a package that is always needed; "" of other errors."""
    if not (isinstance(error, ModuleNotFoundError) and error.name in ("torch", "transformers", "numpy", "PIL")):
        return ""
    return f" in {sys.executable}. In the clone: bash setup.sh && source .venv/bin/activate, or pip install ."


def printed(text: str, status: int) -> int:
    """Print a text. Returns `status`, or 1 where standard output cannot be written."""
    try:
        tell(text)
    except ValueError as error:
        say(f"{program()}: {error}")
        return 1
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the words name (default: those of the command line). Returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0].startswith("--local_rank="):
        del words[0]  # deepspeed's launcher adds it; eval.answering.plan reads the same from the environment
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if not words or words[0] in ("-h", "--help"):
        return printed(overview(), 0 if words else 2)
    if words[0] == "--version":
        return printed(f"debias {versions.of('debias')}", 0)
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        say(f"{program()}: unknown command {name!r}{nearest(name, COMMANDS)}\nTry: {program()} --help")
        return 2
    handler = logging.StreamHandler()
    handler.setFormatter(Spoken("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "matplotlib", "openai", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    debug = os.environ.get("DEBIAS_DEBUG") == "1"
    try:
        parser, work = build(name)
        args = parse(parser, rest)
        for flag in ("model", "video_model"):
            model = getattr(args, flag, None)  # a string or a path
            if isinstance(model, str | Path):
                setattr(args, flag, type(model)(embedded.named(str(model))))
        for place in WRITTEN:
            if getattr(args, place, None):
                refused(writable, getattr(args, place))
        result = work(args)
        if args.json:
            tell_json(result or {})
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        say("stopped; start the same command again to continue")
        return 130
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if debug:
            raise
        say(f"{program()} {name}: {error}{outside(error)}")
        return 2 if isinstance(error, Misuse) else 1
    return int((result or {}).get("exit", 0))
