"""The authors' code itself: the patch at the pin, identity without a context, and agreement with the native methods.

Needs `bash setup.sh --forks`; each fork that is not there is skipped, with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from debias import Debias, Padding, Trend
from debias.release import RELEASES
from eval.forks.backend import Fork
from eval.forks.options import options
from eval.forks.setup import ROOT, blob_id, environment, setups
from eval.reading.sample import Sample
from pruners import make

pytestmark = pytest.mark.forks
NAMES = sorted(name for name, section in setups().items() if not section.patch)
LLAVA = [name for name in NAMES if name != "illava"]
BENCHMARK = SimpleNamespace(name="made up", conversation="vicuna_v1", max_new_tokens=4, media="image")
ARMS = {
    "none": Debias(),
    "trend": Debias(Trend.exponential(0.02)),
    "padding": Debias(padding=Padding()),
    "both": Debias(Trend.exponential(0.02), Padding()),
}
# Settings for the 64 patches and 10 layers of the checkpoint; FastV in the mode that has a cache.
FIELDS = {
    "fastv": {"keep": 20, "mode": "mask"},
    "pyramiddrop": {"layers": (2, 4, 7), "ratios": (0.5, 0.3, 0.1)},
    "sparsevlm": {"layers": (3, 5, 8), "keeps": (40, 24, 10)},
    "himap": {"keeps": (24, 12), "second": 5},
    "tokencarve": {"keep": 20, "weight": 0.37},  # at 0.5 its points are half-integers, and ties are chance
    "vispruner": {"keep": 20},
}
TURNS = (  # conversations of two turns: the picture in the first, and in the second
    "What is red? ASSISTANT: A block.</s>USER: And what is blue?",
    "Is snow white? ASSISTANT: Yes.</s>USER: <image>\nWhat is blue?",
)


def there(name):
    try:
        return environment(name)
    except ValueError as reason:
        pytest.skip(str(reason))


def bash(script, *names):
    done = subprocess.run(["bash", script, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """copies(name): a folder with that fork's code as pinned, our scripts and patches, and what a probe needs."""

    def make_copy(name):
        python, _ = there(name)
        setup, folder = setups()[name], tmp_path_factory.mktemp(name)
        for part in ("scripts", "patches", "eval/forks", "tests/golden"):
            shutil.copytree(ROOT / part, folder / part)
        inside = folder / "third_party" / setup.submodule
        inside.mkdir(parents=True)
        wanted = {str(Path(file["name"]).parent) for file in setup.files}
        for part in (ROOT / path for path in setup.path):
            for package in ("llava", "transformers"):
                if (part / package).is_dir() and part.is_relative_to(setup.folder):
                    wanted.add(str((part / package).relative_to(setup.folder)))
        for part in sorted(wanted):
            shutil.copytree(setup.folder / part, inside / part, dirs_exist_ok=True)
        subprocess.run(["git", "init", "-q", inside], check=True)
        if name == "tokencarve":
            (folder / "third_party" / "LLaVA").symlink_to(ROOT / "third_party" / "LLaVA")
        bash(folder / "scripts/apply_patches.sh", "--reverse", name)
        return SimpleNamespace(folder=folder, setup=setup, python=python)

    return make_copy


def probe(copy, name):
    fields = {"keep": 0.7, "layer": 8} if name == "illava" else probe_options(name)
    path = os.pathsep.join([*(str(copy.folder / part) for part in copy.setup.path), str(ROOT)])
    command = [
        copy.python,
        ROOT / "tests/forks/probe.py",
        name,
        copy.folder / "eval/forks",
        copy.folder / "tests/golden",
    ]
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, json.dumps(fields)], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def probe_options(name):
    return options(name, make(name, **FIELDS[name]), 64, 24)


@pytest.mark.parametrize("name", NAMES)
def test_the_patch_fits_the_pin_and_changes_nothing_without_a_context(copies, name):
    copy = copies(name)
    script, files = copy.folder / "scripts/apply_patches.sh", copy.setup.files
    inside = copy.folder / "third_party" / copy.setup.submodule
    assert [blob_id(inside / file["name"]) for file in files] == [file["before"] for file in files]
    unpatched = probe(copy, name)
    assert "patched" in bash(script, name)
    assert [blob_id(inside / file["name"]) for file in files] == [file["after"] for file in files]
    assert probe(copy, name) == unpatched
    assert "restored" in bash(script, "--reverse", name)
    assert [blob_id(inside / file["name"]) for file in files] == [file["before"] for file in files]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A wide and a tall picture of coloured blocks, and a question without one."""
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for name, size in (("wide.png", (320, 180)), ("tall.png", (120, 200))):
        image = Image.effect_noise(size, 90).convert("RGB")
        image.paste((200, 30, 30), (10, 10, 60, 90))
        image.paste((20, 60, 220), (60, 60, 110, 150))
        image.save(folder / name)
        made.append(Sample(name, "What is red?", image=folder / name))
    return [*made, Sample("text", "Is snow white?")]


def start(name, checkpoint, longest=None, arms=ARMS, **fields):
    there(name)
    pruner = make(name, **{**FIELDS[name], **fields})
    length = (lambda _: longest) if longest else (lambda benchmark: benchmark.max_new_tokens)
    return Fork(name, pruner, checkpoint, lambda _, arm: arms[arm], longest=length)


def native(checkpoint, pruner, arms):
    """What parity needs of a resolved run."""
    from pruners.models import adapter

    loaded = adapter(checkpoint).load(checkpoint, dtype="float32", device="cpu")
    return SimpleNamespace(
        adapter=lambda _: loaded, pruner=pruner, debias=lambda _, arm: arms[arm], longest=lambda _: 4
    )


@pytest.mark.parametrize("name", LLAVA)
def test_every_arm_agrees_with_the_native_method(checkpoint, pictures, name):
    from eval.forks.parity import compare

    fork = start(name, checkpoint)
    chosen = native(checkpoint, fork.pruner, ARMS)
    shown = [*pictures[:2], *(pictures[0].but(text=text) for text in TURNS)]
    try:
        if not fork.patched:
            pytest.skip(f"third_party/{setups()[name].submodule} is not patched: bash scripts/apply_patches.sh {name}")
        found = {arm: compare(chosen, fork, BENCHMARK, shown, arm) for arm in ARMS}
        kept = {arm: [fork.ask(sample, arm, BENCHMARK)["kept"] for sample in shown] for arm in ARMS}
        plain = compare(chosen, fork, BENCHMARK, pictures, "unpruned")
    finally:
        fork.close()
    for arm, one in found.items():
        print(f"{name}, {arm}: largest logit difference {one['logit_max']:.1e}")
        assert one["kept_same"] == len(shown), (arm, one)
        assert one["logit_max"] < 1e-4, (arm, one)
        # HiMAP's code has no cache and prunes again for every new token: only the first one is the same question.
        assert name == "himap" or one["answers_same"] == len(shown), (arm, one)
    assert plain["logit_max"] < 1e-4
    assert plain["answers_same"] == len(pictures)
    assert kept["none"] != kept["padding"]
    # VisPruner's attention is that of a tower which looks both ways: it has no trend to divide by.
    assert (kept["none"] == kept["trend"]) == (name == "vispruner")


@pytest.mark.parametrize("name", RELEASES)
def test_as_released_the_fork_agrees_with_the_native_method(checkpoint, pictures, tmp_path, name):
    """Also on a picture so wide that its masks leave next to nothing."""
    from eval.forks.parity import compare

    arms = {arm: Debias.paper(name, None, arm, as_released=True) for arm in ("none", "padding", "both")}
    arms["both"] = replace(arms["both"], trend=Trend.exponential(0.02))  # the released ones are of 576 tokens
    Image.effect_noise((480, 20), 90).convert("RGB").save(tmp_path / "strip.png")
    shown = [*pictures[:2], Sample("strip", "What is red?", image=tmp_path / "strip.png")]
    fork = start(name, checkpoint, arms=arms)
    chosen, corrected = native(checkpoint, fork.pruner, arms), native(checkpoint, fork.pruner, ARMS)
    try:
        if not fork.patched:
            pytest.skip(f"third_party/{setups()[name].submodule} is not patched: bash scripts/apply_patches.sh {name}")
        found = {arm: compare(chosen, fork, BENCHMARK, shown, arm) for arm in arms}
        ours = {arm: compare(corrected, fork, BENCHMARK, shown, arm) for arm in ("padding", "both")}
    finally:
        fork.close()
    for arm, one in found.items():
        assert one["kept_same"] == len(shown), (arm, one)
        assert one["logit_max"] < 1e-4, (arm, one)
        assert name == "himap" or one["answers_same"] == len(shown), (arm, one)
    assert all(one["logit_max"] > 1e-4 for one in ours.values()), "our corrections change something"


def test_sparsevlm_agrees_given_the_same_noise(checkpoint, pictures, tmp_path, monkeypatch):
    """Two tokens that are each other's nearest have equal density; over there, noise decides which is the centre."""
    from eval.forks import backend
    from eval.forks.parity import compare
    from pruners.methods import sparsevlm

    # In place of random numbers: ones that prefer the later token, where the native method prefers the earlier.
    rising = "import torch\ntorch.rand = lambda shape, **_: torch.arange(shape[-1]).expand(shape) / shape[-1]\n"
    (tmp_path / "sitecustomize.py").write_text(rising)
    own = backend.environment

    def density_peaks(states, count):
        distance = torch.cdist(states, states, compute_mode="donot_use_mm_for_euclid_dist") / states.shape[-1] ** 0.5
        density = distance.topk(count, largest=False).values.square().mean(-1).neg().exp()
        density += 1e-6 * torch.arange(len(states)) / len(states)
        separation = torch.where(density > density[:, None], distance, distance.max()).amin(-1)
        centres = (density * separation).argsort(descending=True)[:count]
        labels = distance[centres].argmin(0)
        labels[centres] = torch.arange(count)
        return labels, centres

    def environment(name):
        python, path = own(name)
        return python, os.pathsep.join([str(tmp_path), path])

    monkeypatch.setattr(backend, "environment", environment)
    fork = start("sparsevlm", checkpoint, keeps=(40, 10, 6))  # two clusters at the second cut
    chosen = native(checkpoint, fork.pruner, ARMS)
    try:
        arms = ARMS if fork.patched else ["none"]
        without = compare(chosen, fork, BENCHMARK, pictures[:2], "none")
        monkeypatch.setattr(sparsevlm, "density_peaks", density_peaks)
        found = {arm: compare(chosen, fork, BENCHMARK, pictures[:2], arm) for arm in arms}
    finally:
        fork.close()
    for arm, same in found.items():
        assert (same["kept_same"], same["answers_same"]) == (2, 2), (arm, same)
        assert same["logit_max"] < 1e-4, (arm, same)
    assert without["logit_max"] > 1e-4, "the noise decides something"


@pytest.mark.parametrize("name", LLAVA)
def test_text_alone_and_long_answers(checkpoint, pictures, name):
    fork = start(name, checkpoint, longest=170)
    try:
        arm = "both" if fork.patched else "none"
        wide, text = (fork.ask(pictures[i], arm, BENCHMARK) for i in (0, 2))
        again = fork.ask(pictures[0], arm, BENCHMARK)
    finally:
        fork.close()
    assert text["kept"] == []
    assert text["start"] is None
    assert wide["start"] == again["start"] > 0
    assert (wide["ids"], wide["kept"]) == (again["ids"], again["kept"]), "nothing of one question is left for the next"
    for reply in (wide, text):
        assert 1 <= len(reply["ids"]) <= 170
        assert len(reply["ids"]) == 170 or reply["ids"][-1] == 2


def test_fastv_in_place(checkpoint, pictures):
    fork = start("fastv", checkpoint, mode="gather")
    try:
        rows = list(fork.answer(pictures, "none", BENCHMARK))
    finally:
        fork.close()
    assert [key for key, _, _ in rows] == [sample.key for sample in pictures]
    assert all("counts" in metadata for _, _, metadata in rows[:2])


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop"])
def test_both_layouts_of_a_checkpoint_give_the_same_logits(checkpoint, tmp_path, name):
    from eval.forks import convert

    python, path = there(name)
    convert.convert(checkpoint, tmp_path / "original")
    code = (
        "import sys, json, torch; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import layout, load\n"
        "folder = Path(sys.argv[2]); config = layout.read_config(folder)\n"
        "state = layout.weights(folder); vision = None\n"
        "if layout.is_original(config): config['mm_vision_tower'] = layout.tower_folder(folder, config)\n"
        "else:\n"
        "    vision = config['vision_config']; config = layout.original_config(config, '')\n"
        "    state = ((layout.to_original(n), w) for n, w in state)\n"
        "fork = load.build(sys.argv[3], json.loads(sys.argv[4]), config, state, vision)\n"
        "torch.manual_seed(0); fork.prepare(2)\n"
        "print(fork.generate([1, 5, -200, 6, 7], torch.randn(1, 3, 112, 112), 3))\n"
    )
    fields = json.dumps(options(name, make(name, **FIELDS[name]), 64, 10))
    said = []
    for folder in (checkpoint, tmp_path / "original"):
        command = [python, "-c", code, ROOT / "eval/forks", folder, name, fields]
        environ = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(done.stdout)
    assert said[0] == said[1]
