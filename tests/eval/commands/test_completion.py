"""The shell completes what the command line knows."""

import shutil
import subprocess

import pytest

from eval.cli import COMMANDS
from eval.commands import completion
from pruners import names


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    for shell in completion.SHELLS:
        (folder / shell).write_text(completion.written(shell), encoding="utf-8")
    return folder


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_script_is_one_the_shell_reads_and_knows_the_names(scripts, shell):
    text = (scripts / shell).read_text(encoding="utf-8")
    for word in (*COMMANDS, *names(), "mmbench_cn", "benchmarks", "important-ratio"):
        assert word in text
    if shutil.which(shell):
        done = subprocess.run([shell, "-n", str(scripts / shell)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["debias", "comp"], {"compare", "completion"}),
        (["debias", "run", "--method", "vis"], {"visionzip", "vispruner"}),
        (["debias", "run", "--ba"], {"--backend", "--batch-size"}),
        (["debias", "run", "--arms", "p"], {"padding"}),
        (["debias", "export", "mmb"], {"mmbench", "mmbench_cn"}),
        (["debias", "fit", "--kind", "r"], {"rope"}),
    ],
)
def test_bash_offers(scripts, words, offered):
    ask = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_debias; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", ask, "bash", str(scripts / "bash"), *words], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == offered


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_fish_offers(scripts):
    ask = f'source {scripts / "fish"}; complete -C "debias run --method vis"'
    done = subprocess.run(["fish", "--no-config", "-c", ask], capture_output=True, text=True, check=True)
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == {"visionzip", "vispruner"}
