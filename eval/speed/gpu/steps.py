"""The steps, and the commands that they are made of. What matters most comes first: a step may run out of time."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.forks.setup import ROOT, environment, setups
from pruners import names
from pruners.engine.attention import lacking

SHARE = "0.25"  # of the visual tokens, where their number changes
SECONDS = 460.0  # of one step; what is written at its end takes the rest of eight minutes


@dataclass(frozen=True)
class Scale:
    """How large everything is: of a 7B model on a GPU, or of a rehearsal on a CPU."""

    shape: str
    small: str  # the shape that waits are looked for in
    every: str  # methods; what one of them cannot do is left out, and said
    few: Sequence[str]  # of them, where a few are enough
    keep: str
    tokens: str
    arms: str
    batches: Sequence[int]
    rounds: int
    decode: int
    questions: int
    learning: int | None = None  # steps of every stage of training; None: as many as it needs


FULL = Scale(
    "llava-1.5-7b", "small", ",".join(names()), ("fastv", "pyramiddrop", "sparsevlm"), "128", "576,1024,2056,2880",
    "none,trend,padding,both", (1, 8), 5, 8, 500,
)  # fmt: skip
REHEARSAL = Scale(
    "tiny", "tiny", "fastv,d2pruner,illava,grid", ("fastv",), "128", "64,100", "none,both", (1, 2), 1, 2, 2, 1
)


@dataclass(frozen=True)
class Part:
    """One command of a step: a module of this repository and its words. `needs`: packages that have to be there;
    `fork`: the method whose authors' code has to be."""

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    fork: str = ""

    @property
    def command(self) -> str:
        """As a person types it."""
        return shlex.join(("python", "-m", *self.words))

    @property
    def lacking(self) -> str:
        """What it needs and this machine lacks, in a sentence; empty: nothing."""
        try:
            if self.fork:
                environment(self.fork)
        except ValueError as error:
            return str(error)
        if "triton" in self.needs and (why := lacking()):
            return why
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            return f"{', '.join(missing)} is not installed here"
        files = [word for word in self.words if word.startswith("tests/") and not (ROOT / word).exists()]
        return f"{', '.join(files)} is not part of this checkout" if files else ""


def part(name: str, words: str, *more: str, needs: tuple[str, ...] = (), fork: str = "") -> Part:
    """A command from a string of words; `more` are words that may hold spaces."""
    return Part(name, (*words.split(), *more), needs, fork)


def smoke(scale: Scale, out: Path) -> list[Part]:
    """Does everything run: the tests that need a GPU, and whether anybody waits for it."""
    far = "cpu" if scale is REHEARSAL else "cuda"
    files = "tests/pruners/engine/test_gpu.py tests/pruners/engine/test_fused.py tests/debias/test_debias.py"
    waits = f"eval speed --waits --shape {scale.small} --keep {scale.keep} --method {scale.every} --arms both"
    return [
        part("tests", f"pytest -q -p no:cacheprovider {files} -k", f"test_gpu or test_fused or {far}"),
        part("waits", f"{waits} --batch-size 2"),
    ]


def speed(scale: Scale, out: Path) -> list[Part]:
    """Prefill, decoding, memory, and what the methods themselves cost."""
    few, every, (first, last), most = ",".join(scale.few), scale.every, scale.batches, scale.tokens.split(",")[-1]
    base = f"eval speed --shape {scale.shape} --rounds {scale.rounds}"
    whole = f"{base} --keep {scale.keep} --decode {scale.decode}"
    share = f"{base} --keep {SHARE} --method {every}"
    long = f"--decode {8 * scale.decode}"
    return [
        part("batch 1", f"{whole} --method {every} --arms {scale.arms} --batch-size {first}"),
        part("batch 8", f"{whole} --method {every} --arms none,both --batch-size {last}"),
        # Nearly all tokens stay, so that the unpruned model has as much to read at every step.
        part("decoding", f"{base} --method {few} --arms both --keep 575 --batch-size {first},{last} {long}"),
        part("parts", f"{base} --parts --keep {scale.keep} --method {every} --arms both"),
        part("debias", f"eval speed --debias --shape {scale.shape} --tokens {scale.tokens} --rounds {scale.rounds}"),
        part("fused kernels", f"eval speed --fused --shape {scale.shape} --keep {SHARE} --tokens {scale.tokens} "
             f"--rounds {scale.rounds}", needs=("triton",)),
        part("tokens", f"{share} --arms none,both --batch-size {first},{last} --tokens {most} --decode {scale.decode}"),
        part("compiled", f"{base} --compiled --keep {scale.keep} --method fastv --arms both {long}"),
        part("kernels", f"{whole} --method {few} --arms both --attention sdpa,eager --batch-size {first}"),
        part("flash attention", f"{whole} --method {few} --arms both --attention flash_attention_2",
             needs=("flash_attn",)),
        part("growth", f"{share} --parts --arms both --tokens {scale.tokens}"),
    ]  # fmt: skip


def forks(scale: Scale, out: Path) -> list[Part]:
    """The authors' codes beside ours, one method after the other."""
    methods = [name for name in setups() if name in names() and name != "illava"]  # iLLaVA's has no LLaVA-1.5
    base = f"eval speed --against fork --shape {scale.shape} --keep {scale.keep} --rounds {scale.rounds}"
    return [part(name, f"{base} --method {name} --arms none,both", fork=name) for name in methods]


def throughput(scale: Scale, out: Path) -> list[Part]:
    """Questions a second of whole evaluations, on the embedded model."""
    base = f"eval throughput --limit {scale.questions} --rounds {min(scale.rounds, 2)} --batch-size"
    large = 2 if scale is REHEARSAL else 64
    return [part(name, f"{base} {large} --method {name} --benchmarks gqa") for name in scale.few]


def train(scale: Scale, out: Path) -> list[Part]:
    """The embedded models from nothing, and what they can do beside those that are shipped."""
    learning = "" if scale.learning is None else f" --steps {scale.learning}"
    run, models = out / "training", out / "models"
    asked = f"eval run --method fastv --arms none,both --benchmarks gqa,vqav2 --limit {scale.questions}"
    new = ("--model", str(models / "tiny-llava"), "--out", str(out / "new"))
    return [
        part("training", f"tiny.train all{learning}", "--run", str(run), "--to", str(models)),
        part("the new model", asked, *new),
        part("the shipped model", asked, "--out", str(out / "shipped")),
    ]


def vllm(scale: Scale, out: Path) -> list[Part]:
    """Serving, where vLLM is installed."""
    return [
        part("tests", "pytest -q -p no:cacheprovider tests/reach/test_vllm.py", needs=("vllm",)),
        part("bench", f"eval.harnesses.vllm.bench --shape {scale.shape} --rounds {2 * scale.rounds}", needs=("vllm",)),
    ]


STEPS: dict[str, Callable[[Scale, Path], list[Part]]]
STEPS = {step.__name__: step for step in (smoke, speed, forks, throughput, train, vllm)}
