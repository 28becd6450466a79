"""scripts/apply_patches.sh on a made-up submodule: applies, knows itself, reverses, refuses what it does not know."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from eval.forks.setup import ROOT, blob_id

CODE = """import math
import sys


def score(values):
    mean = sum(values) / len(values)
    return mean


def double(x):
    return 2 * x
"""
PATCHED = CODE.replace("import sys\n", "import sys\nimport debias\n").replace(
    "    return mean\n", "    mean = debias.rescore(mean)\n    return mean\n"
)
SERIES = """# a comment
[made-up]
submodule = "Made"
commit = "0"
environment = "4.37"

[other]
submodule = "Absent"

[guest]
submodule = "Absent"
needs = "Made"
patch = "made-up"
"""


def git(folder, *words):
    return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def place(tmp_path):
    """A copy of the scripts beside a submodule of our own and a patch for two files in it."""
    (tmp_path / "scripts").mkdir()
    for script in ("apply_patches.sh", "forks.sh"):
        shutil.copy(ROOT / "scripts" / script, tmp_path / "scripts" / script)
    made = tmp_path / "third_party" / "Made"
    (made / "inner").mkdir(parents=True)
    (tmp_path / "third_party" / "Absent").mkdir()
    git(made, "init", "-q")
    before, after = made / "code.py", made / "inner" / "twin.py"
    for file in (before, after):
        file.write_text(CODE)
    git(made, "add", ".")
    git(made, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "made up")
    for file in (before, after):
        file.write_text(PATCHED)
    text = git(made, "diff", "-U0", "--full-index")
    text = "\n".join(line[: line.index(" @@") + 3] if line.startswith("@@") else line for line in text.split("\n"))
    git(made, "checkout", "-q", ".")
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches" / "series.toml").write_text(SERIES)
    (tmp_path / "patches" / "made-up.patch").write_text(text)
    (tmp_path / "patches" / "other.patch").write_text(text)
    return tmp_path


def bash(*words):
    return subprocess.run(["bash", *words], capture_output=True, text=True, check=False)


def run(place, *words):
    return bash(place / "scripts/apply_patches.sh", *words)


def code(place):
    return [(place / "third_party/Made" / name).read_text() for name in ("code.py", "inner/twin.py")]


def test_applies_once_knows_it_and_takes_it_out_again(place):
    first = run(place, "made-up")
    assert (first.returncode, code(place)) == (0, [PATCHED, PATCHED])
    second = run(place, "made-up")
    assert (second.returncode, code(place)) == (0, [PATCHED, PATCHED])
    assert "already" in second.stdout
    third = run(place, "--reverse", "made-up")
    assert (third.returncode, code(place)) == (0, [CODE, CODE])
    fourth = run(place, "--reverse", "made-up")
    assert (fourth.returncode, code(place)) == (0, [CODE, CODE])


def test_a_section_that_another_ones_patch_serves(place):
    done = run(place, "guest", "made-up")
    assert (done.returncode, done.stdout.split(), code(place)) == (0, ["made-up", "patched"], [PATCHED, PATCHED])


def test_check_changes_nothing_and_tells_the_truth(place):
    assert "would apply" in run(place, "--check", "made-up").stdout
    assert code(place) == [CODE, CODE]
    run(place, "made-up")
    assert "already" in run(place, "--check", "made-up").stdout


def test_check_tells_of_other_files_that_were_changed(place):
    made = place / "third_party/Made"
    (made / "other.py").write_text("1\n")
    git(made, "add", ".")
    git(made, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "another file")
    run(place, "made-up")
    assert run(place, "--check", "made-up").returncode == 0
    (made / "other.py").write_text("2\n")
    (made / "untracked.pyc").write_text("")
    done = run(place, "--check", "made-up")
    assert done.returncode == 1
    assert "patched already" in done.stdout
    assert "changed: other.py in third_party/Made" in done.stderr
    assert run(place, "--reverse", "made-up").returncode == 0, "what is ours can be taken out all the same"


@pytest.mark.parametrize("mode", [[], ["--check"], ["--reverse"]])
def test_a_file_that_drifted_is_refused_and_left_alone(place, mode):
    file = place / "third_party/Made/code.py"
    file.write_text("# one line more\n" + CODE)
    done = run(place, *mode, "made-up")
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert "code.py is not the pinned file" in done.stderr
    assert code(place) == ["# one line more\n" + CODE, CODE]


def test_half_a_patch_is_refused(place):
    (place / "third_party/Made/code.py").write_text(PATCHED)
    done = run(place, "made-up")
    assert done.returncode == 1
    assert "half patched" in done.stderr
    assert code(place) == [PATCHED, CODE]


def test_a_missing_submodule_is_named_with_the_command_that_fetches_it(place):
    done = run(place)
    assert done.returncode == 1
    assert "git submodule update --init third_party/Absent" in done.stderr
    assert code(place) == [PATCHED, PATCHED], "the others are patched all the same"


def test_unknown_names_and_flags_are_refused(place):
    assert run(place, "nothing").returncode == 1
    assert "made-up other" in run(place, "nothing").stderr
    assert run(place, "--nonsense").returncode == 2


def test_plain_git_apply_would_have_appended_at_the_end(place):
    """Why there is a script: on a patch without context, plain `git apply` succeeds, in the wrong place."""
    git(place / "third_party/Made", "apply", place / "patches/made-up.patch")
    wrong = code(place)
    assert wrong[0].startswith(CODE)
    assert wrong[0] != PATCHED
    done = run(place, "made-up")
    assert done.returncode == 1, "and what it left is not taken for a patched file"
    assert code(place) == wrong


def test_blob_ids_are_those_of_git(place):
    assert (
        blob_id(place / "third_party/Made/code.py") == git(place / "third_party/Made", "rev-parse", "HEAD:code.py")[:-1]
    )


def test_forks_script_refuses_unknown_names(place):
    done = bash(place / "scripts/forks.sh", "nothing")
    assert done.returncode == 1
    assert "There are: made-up other" in done.stderr


def test_forks_script_says_what_still_works_when_it_cannot_fetch(place):
    done = bash(place / "scripts/forks.sh", "other")
    assert done.returncode == 1
    assert "git submodule update --init third_party/Absent" in done.stderr
    assert "works without it" in done.stderr
