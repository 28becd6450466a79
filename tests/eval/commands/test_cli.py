"""The frame of the command line: help, names, exit status, and standard output with --json."""

import json
import logging
import sys
import types
from importlib.metadata import PackageNotFoundError

import pytest

from eval import cli
from eval.answering.progress import Progress
from eval.core import versions


@pytest.fixture
def extra(monkeypatch):
    """A subcommand `try` whose work is given by the test."""

    def install(work):
        module = types.ModuleType("eval.commands.try", "Try something.\n\nexamples:\n  python -m eval try --times 2")
        module.arguments = lambda parser: parser.add_argument("--times", type=int, default=1)
        module.work = work
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "try", "try something")

    return install


def test_the_overview_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("run", "score", "compare", "fit", "export", "report"):
        assert f"  {name}" in shown
    assert cli.main([]) == 2


def test_an_unknown_command_gets_the_nearest_name(capsys):
    assert cli.main(["comparre"]) == 2
    assert "unknown command 'comparre' (did you mean compare?)" in capsys.readouterr().err


def test_an_unknown_flag_gets_the_nearest_name(extra, capsys):
    extra(lambda args: None)
    assert cli.main(["try", "--tims", "3"]) == 2
    assert "--tims 3 (did you mean --times?)" in capsys.readouterr().err


def test_a_wrong_choice_gets_the_nearest_name(capsys):
    assert cli.main(["completion", "zhs"]) == 2
    assert capsys.readouterr().err.count("(did you mean zsh?)") == 1


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself_by_example(name, capsys, monkeypatch):
    parser, _ = cli.build(name)
    assert "\nexamples:\n  " in parser.description
    assert f"  {'debias' if name == 'completion' else 'python -m eval'} {name}" in parser.description
    for action in parser._actions:
        assert action.help, f"{name} {action.option_strings or action.dest} says nothing"
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/debias"])
    assert cli.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: debias {name}")
    assert "python -m eval" not in shown.split("options:")[0]


def test_the_usage_is_one_line_of_what_has_to_be_given(capsys):
    assert cli.main(["help", "score"]) == 0
    usage = "usage: python -m eval score BENCHMARK --answers FILE ... --data DIR [FLAGS]"
    assert capsys.readouterr().out.splitlines()[0] == usage


def test_the_version_is_that_of_the_distribution(capsys, monkeypatch):
    """`debias` may be installed as well: it is another project."""

    def version(name):
        found = {"attention-debiasing": "1.2", "debias": "0.165", "torch": "2.9"}
        if name not in found:
            raise PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(versions, "version", version)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "debias 1.2\n"
    assert versions.versions() == {"debias": "1.2", "torch": "2.9", "transformers": "source"}


def test_what_deepspeeds_launcher_adds_is_no_command(capsys):
    assert cli.main(["--local_rank=1", "--version"]) == 0
    assert capsys.readouterr().out.startswith("debias")


def test_help_of_a_command_keeps_its_examples(extra, capsys):
    extra(lambda args: None)
    assert cli.main(["try", "--help"]) == 0
    assert "  python -m eval try --times 2" in capsys.readouterr().out


def test_json_is_one_object_and_nothing_else(extra, capsys):
    extra(lambda args: {"times": args.times, "word": "日本"})
    assert cli.main(["try", "--times", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"times": 3, "word": "日本"}


def test_without_json_the_result_is_not_printed(extra, capsys):
    extra(lambda args: {"a": 1})
    assert cli.main(["try"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [ValueError, OSError, ImportError, RuntimeError])
def test_an_error_is_a_message_and_status_1(extra, capsys, error):
    def work(args):
        raise error("a file, its line, what to do")

    extra(work)
    assert cli.main(["try"]) == 1
    seen = capsys.readouterr()
    assert seen.err.strip() == "python -m eval try: a file, its line, what to do"
    assert seen.out == ""


def test_a_python_without_torch_is_told_where_to_go(extra, capsys):
    def work(args):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    extra(work)
    assert cli.main(["try"]) == 1
    seen = capsys.readouterr().err
    assert f"No module named 'torch' in {sys.executable}" in seen
    assert "source .venv/bin/activate" in seen


def test_debugging_shows_where(extra, monkeypatch):
    def work(args):
        raise ValueError("here")

    extra(work)
    monkeypatch.setenv("DEBIAS_DEBUG", "1")
    with pytest.raises(ValueError, match="here"):
        cli.main(["try"])


def test_a_command_may_say_its_status(extra):
    extra(lambda args: {"exit": 1})
    assert cli.main(["try"]) == 1


def test_progress_is_log_lines_when_there_is_no_terminal(caplog, monkeypatch):
    monkeypatch.setattr("eval.answering.progress.SECONDS", 0)
    with caplog.at_level(logging.INFO), Progress(4, done=1) as progress:
        progress.advance(2, "pope none")
        progress.advance(1, "pope both")
    assert [record.message.split(",")[0] for record in caplog.records] == [
        "pope none: 3 of 4 answers",
        "pope both: 4 of 4 answers",
        "done: 4 of 4 answers",
    ]
    assert "/s, 00:00 left" in caplog.text


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(2) as progress:
        progress.advance(2, "pope")
        assert progress.bar.tasks[0].completed == 2
        assert "left" in progress.bar.tasks[0].fields["pace"]
