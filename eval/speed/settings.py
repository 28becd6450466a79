"""What `speed` measures, as a value. Loads no torch, so that help pages and flags are quick."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from debias import names
from debias.names import one_of
from eval.answering import early
from eval.core.settings import setting, several
from eval.speed.shapes import BEFORE, SHAPES
from pruners import catalogue
from pruners.loading.kernels import known_kernel

DTYPES = ("float32", "float16", "bfloat16")
PRECISIONS = ("bfloat16", "float16", "8bit", "4bit")  # that kept tokens are compared in


@dataclass(frozen=True)
class SpeedSettings:
    """What is measured and how. Sequences may be given as text with commas."""

    method: Sequence[str] = setting(("fastv",), "methods with commas")
    arms: Sequence[str] = setting(("none", "both"), "arms with commas")
    keep: Sequence[int | float] = setting((128,), "counts or shares of tokens, with commas")
    shape: str = setting("", f"one of {', '.join(SHAPES)} (default: small; with --debias llava-1.5-7b)")
    tokens: Sequence[int] | None = setting(None, "visual tokens, with commas (default: the shape's)")
    batch_size: Sequence[int] = setting((1,), "with commas")
    ragged: int = setting(0, "tokens that every second row of a batch lacks", type=int)
    attention: Sequence[str] = setting(("sdpa",), "sdpa, eager, flash_attention_2, with commas")
    rounds: int = setting(7, "times that every variant is run, after a warm-up unless it is 1")
    decode: int = setting(8, "tokens decoded after each prefill")
    dtype: str | None = setting(None, "default: bfloat16 on a GPU, float32 on a CPU")
    device: str | None = setting(None, "cpu, cuda or cuda:1 (default: a GPU, where the machine has any)")
    threads: int | None = setting(None, "CPU threads (default: as torch chooses)")
    memory: bool = setting(False, "peak memory on a CPU too, in a process for each variant")
    shared_layers: bool = setting(False, "one layer's random weights for all layers: less memory, see above")
    debias: bool = setting(False, "only time one debias call")
    fused: bool = setting(False, "only time score and choice by the fused kernels and by plain torch")
    parts: bool = setting(False, "only time scoring, debiasing, selecting and merging")
    precision: Sequence[str] = setting((), "only compare kept tokens: bfloat16,float16,8bit,4bit", metavar="KINDS")
    compiled: bool = setting(False, "only time decoding with a static cache, whose step is compiled")
    waits: bool = setting(False, "only say who makes the host wait for a GPU")
    model: Path | None = setting(None, "checkpoint for --precision (default: the embedded one, and the --shape)")
    limit: int = setting(50, "pictures for --precision")
    against: str | None = setting(None, "fork: the authors' code and ours in turn", choices=["fork"])
    peak: str | None = setting(None, SUPPRESS)  # in a process of its own: the label of a variant, for its peak memory

    def __post_init__(self) -> None:
        for name in ("method", "arms", "attention", "precision"):
            self._set(name, tuple(several(getattr(self, name))))
        self._set("arms", tuple(map(names.arm, self.arms)))
        self._set("method", tuple(one_of("method", name, catalogue.names()) for name in self.method))
        self._set("shape", self.shape or ("llava-1.5-7b" if self.debias else "small"))
        one_of("shape", self.shape, list(SHAPES))
        one_of("dtype", self.dtype or DTYPES[0], DTYPES)
        for kind in self.precision:
            one_of("precision", kind, PRECISIONS)
        for kernel in self.attention:
            known_kernel(kernel)
        if self.device == "auto":
            raise ValueError("--device auto spreads a model over several devices; speed is that of one: name it")
        if not 0 <= self.ragged <= BEFORE:
            raise ValueError(
                f"--ragged {self.ragged}: a row has {BEFORE} tokens before its picture, and can lack no more"
            )
        if self.compiled and self.decode < 2:
            raise ValueError(f"--decode {self.decode}: a step is told from the prefill by answers of at least 2 tokens")
        if self.memory and self.shared_layers:
            raise ValueError("--memory would measure the shared weights: leave --shared-layers out")

    def kind(self, device: str) -> str:
        """The type of number that is asked for, or the device's usual one."""
        return self.dtype or ("bfloat16" if device.startswith("cuda") else "float32")

    @property
    def builds(self) -> bool:
        """Whether a model of the shape is built, and nothing else is asked for before."""
        return not (self.debias or self.fused or self.against or (self.precision and self.model))

    def check_memory(self, device: str) -> None:
        """ValueError where the weights of the shape are more than the device has free."""
        device = "cpu" if self.precision else device
        kind = self.kind(device)
        needed = SHAPES[self.shape].parameters(self.shared_layers) * early.BYTES[kind]
        instead = "--shared-layers keeps one layer's weights for all, --dtype bfloat16 halves them"
        early.memory(f"--shape {self.shape} in {kind}", needed, device, instead)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
