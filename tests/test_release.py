"""What is released: a wheel of the four packages and what ships with them, the same from tree and sdist."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from eval.core.versions import DISTRIBUTION

ROOT = Path(__file__).parents[1]
PACKAGES = {"debias", "pruners", "eval", "tiny"}
# imported where they are used, or asked for there
OPTIONAL = {"openai", "tenacity", "lmms_eval", "vlmeval", "torchao", "deepspeed", "vllm"}
OPTIONAL |= {"starlette", "uvicorn", "anyio"}  # the extra `serve`
OPTIONAL |= {"triton", "pyarrow", "tensorboard", "wandb"}  # the extras `triton`, `data` and `trackers`


def call(*command, cwd=ROOT, **variables):
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(out, *what, source=ROOT):
    call("-m", "build", "--no-isolation", *what, "--outdir", str(out), str(source))
    return {path.suffix: path for path in out.iterdir()}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    return built(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def installed(release, tmp_path_factory):
    """The wheel, unpacked as pip does it, far from any clone."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(release[".whl"]) as wheel:
        wheel.extractall(site)
    return site


def contents(path):
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/RECORD")}


def metadata(wheel):
    return Parser().parsestr(next(text for name, text in wheel.items() if name.endswith("/METADATA")).decode())


def test_the_wheel_holds_the_packages_and_nothing_else(release):
    wheel = contents(release[".whl"])
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    source = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert {name for name in wheel if name.endswith(".py")} == source
    assert not [name for name in wheel if "test" in Path(name).stem.split("_") or "third_party" in name]
    for needed in (
        *(f"{package}/py.typed" for package in PACKAGES),
        "debias/trends.toml",
        "eval/showing/report.html.jinja",
        *(
            f"eval/assets/{name}"
            for name in ("artefacts.toml", "published.toml", "paper.toml", "tiny-llava/model.safetensors")
        ),
        "eval/assets/tiny-video-llava/model.safetensors",
    ):
        assert needed in wheel, needed
    assert any(name.endswith("/licenses/LICENSE") for name in wheel)


def test_the_tree_and_the_sdist_give_the_same_wheel(release, tmp_path):
    direct = built(tmp_path, "--wheel")
    assert contents(direct[".whl"]) == contents(release[".whl"])


def test_the_sdist_holds_no_code_of_others(release):
    with tarfile.open(release[".gz"]) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames()}
    assert not [name for name in names if name.startswith(("third_party", ".venv", "runs", ".cache", "dist"))]
    for needed in (
        "README.md",
        "LICENSE",
        "setup.sh",
        "requirements.txt",
        "patches/series.toml",
        "tests/test_release.py",
    ):
        assert needed in names, needed


def test_the_index_would_take_both(release):
    assert "PASSED" in call("-m", "twine", "check", "--strict", *map(str, release.values()))


def test_no_build_of_torch_is_forced(release):
    """Whoever has a CPU or a CUDA build of torch keeps it; what needs a GPU stands in an extra."""
    about = metadata(contents(release[".whl"]))
    assert about["Name"] == DISTRIBUTION
    required = [Requirement(line) for line in about.get_all("Requires-Dist")]
    plain = {entry.name: entry for entry in required if "extra" not in str(entry.marker)}
    assert plain["torch"].specifier.contains("2.13.0+cpu")
    assert plain["torch"].specifier.contains("2.13.0+cu130")
    assert not plain["torch"].extras
    assert not plain["torch"].url
    assert not [name for name in plain if name.startswith(("nvidia", "cuda", "triton", "torchvision", "flash", "deep"))]
    assert {"flash-attn", "deepspeed"} <= {entry.name for entry in required}
    assert about["Requires-Python"] == ">=3.10"


def test_nox_asks_for_extras_that_there_are(release):
    """pip only warns about others."""
    asked = re.findall(r'"\.\[([\w,]+)\]"', (ROOT / "noxfile.py").read_text(encoding="utf-8"))
    assert asked
    known = metadata(contents(release[".whl"])).get_all("Provides-Extra")
    assert {extra for extras in asked for extra in extras.split(",")} <= set(known)


@pytest.mark.parametrize("package", ["debias", "pruners", "tiny", "eval"])
def test_what_a_package_imports_is_required(package, release):
    """Without extras: what only some users have is asked for by name where it is used."""
    about = metadata(contents(release[".whl"]))
    required = {
        Requirement(line).name.replace("-", "_") for line in about.get_all("Requires-Dist") if "extra" not in line
    }
    called = {"PIL": "pillow"}
    for path in (ROOT / package).rglob("*.py"):
        if "forks" in path.parts:  # runs in the forks' environments
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            tops = {module.split(".")[0] for module in modules} - PACKAGES - set(sys.stdlib_module_names) - OPTIONAL
            assert {called.get(top, top) for top in tops} <= required, f"{path.relative_to(ROOT)} imports {tops}"


def test_what_is_pinned_lies_in_the_ranges_of_the_library(release):
    pins = {}
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            entry = Requirement(line)
            pins.setdefault(entry.name, []).append(entry)
    for line in metadata(contents(release[".whl"])).get_all("Requires-Dist"):
        entry = Requirement(line)
        if "extra" in str(entry.marker) and entry.name not in pins:
            continue
        if 'extra == "vllm"' in str(entry.marker):  # has an environment of its own: bash setup.sh --vllm
            continue
        assert entry.name in pins, f"requirements.txt does not pin {entry.name}"
        for pin in pins[entry.name]:
            version = next(iter(pin.specifier)).version
            assert entry.specifier.contains(version), f"{pin} is outside of {entry}"


def test_an_installation_imports_and_runs_its_command(installed, tmp_path):
    code = (
        "import debias, pruners, pruners.models\n"
        "from importlib.metadata import entry_points, version\n"
        "from eval.core import versions\n"
        "from eval.core.embedded import EMBEDDED, shipped\n"
        "assert all(folder.is_dir() for folder in EMBEDDED.values()), EMBEDDED\n"
        "shipped('published.toml').read_text()\n"
        "debias.Debias.paper('fastv')\n"
        "assert versions.of('debias') == version('attention-debiasing')\n"
        "[command] = {e.load() for e in entry_points(group='console_scripts') if e.name == 'debias'}\n"
        "assert command(['--help']) == 0\n"
        "print(debias.__file__)\n"
    )
    said = call("-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert "commands:" in said
    assert str(installed) in said


@pytest.mark.long
def test_an_installation_answers_benchmarks_without_a_clone(installed, tmp_path):
    run = ["run", "--method", "fastv", "--benchmarks", "pope", "--limit", "4", "--out", "here", "--json"]
    said = call("-m", "eval", *run, cwd=tmp_path, PYTHONPATH=str(installed), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert '"pope"' in said
    assert (tmp_path / "here" / "run.json").is_file()
    assert (tmp_path / "cache" / "debias" / "tiny").is_dir()
