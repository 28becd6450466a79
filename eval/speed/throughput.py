"""Measure how many questions a second a whole evaluation answers, and what each way of sharing work brings.

examples:
  python -m eval throughput                                          the tiny model: one at a time, then all that helps
  python -m eval throughput --threads 1,2 --method fastv,deeplayer --limit 64
  python -m eval throughput --method fastv --model llava-hf/llava-1.5-7b-hf --data playground/data/eval \\
                            --benchmarks pope --limit 500 --batch-size 16 --json

Settings follow each other round after round, so that a machine's moods fall on all alike; medians are printed. Answers
of every setting are compared with those of one question at a time.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.tables import Table, say, show


@dataclass
class Meter:
    """Counts answers, and the seconds that they and the model took."""

    questions: int = 0
    answers: int = 0
    seconds: float = 0.0
    busy: float = 0.0  # of them, in the model
    gpu: list[float] = field(default_factory=list)  # per cent, sampled

    def summary(self) -> dict[str, Any]:
        spent = max(self.seconds, 1e-9)
        return {
            "questions": self.questions,
            "answers": self.answers,
            "seconds": self.seconds,
            "questions_per_second": self.questions / spent,
            "answers_per_second": self.answers / spent,
            "model_share": self.busy / spent,
            "gpu_busy": statistics.mean(self.gpu) / 100 if self.gpu else None,
        }

    def line(self) -> str:
        found = self.summary()
        gpu = "" if found["gpu_busy"] is None else f", GPU busy {found['gpu_busy']:.0%}"
        return (
            f"{self.answers:,} answers to {self.questions:,} questions in {self.seconds:.1f} s: "
            f"{found['questions_per_second']:.2f} questions/s, {found['answers_per_second']:.2f} answers/s; "
            f"{found['model_share']:.0%} of the time in the model{gpu}"
        )


class Watch:
    """Inside the block, samples how busy this process's GPU is; samples nothing without one, or without pynvml."""

    def __init__(self, meter: Meter, device: str, every: float = 0.5) -> None:
        self.meter, self.device, self.every = meter, device, every
        self.over = threading.Event()
        self.thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        if self.device.startswith("cuda") and importlib.util.find_spec("pynvml"):
            self.thread = threading.Thread(target=self._sample, daemon=True, name="gpu-watch")
            self.thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.over.set()
        if self.thread is not None:
            self.thread.join()

    def _sample(self) -> None:
        import torch

        while not self.over.wait(self.every):
            try:
                self.meter.gpu.append(float(torch.cuda.utilization(self.device)))
            except (RuntimeError, ImportError, OSError):  # a driver that does not tell
                return


@dataclass(frozen=True)
class Setting:
    """One way to work through the same questions."""

    name: str
    batch: int = 1
    workers: int = 0
    features: bool = False
    arms: bool = False
    prefix: bool = False


def settings(batch: int, workers: int, prefix: bool) -> list[Setting]:
    """From nothing shared to everything, one step after the other."""
    steps = [
        Setting("one at a time"),
        Setting(f"batches of {batch}", batch),
        Setting("and pictures read ahead", batch, workers),
        Setting("and vision features shared", batch, workers, True),
        Setting("and arms that agree", batch, workers, True, True),
    ]
    return [*steps, Setting("and the prefix shared", batch, workers, True, True, True)] if prefix else steps


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    from eval.commands import flags

    flags.answering(parser)
    add = parser.add_argument
    add("--threads", type=flags.numbers, default=[1], help="CPU threads of the model, with commas (default: 1)")
    add("--rounds", type=flags.positive, default=3, help="times that every setting is run (default: %(default)s)")
    parser.set_defaults(limit=32, benchmarks="gqa", batch_size=16, backend="native")
    return work


def work(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from eval.commands import flags

    rows = []
    for method in flags.methods(args.method):
        for threads in args.threads:
            torch.set_num_threads(threads)
            rows += measure(argparse.Namespace(**{**vars(args), "method": method}), threads)
    columns = {
        "method": "method",
        "threads": "threads",
        "setting": "setting",
        "questions/s": "questions_per_second",
        "times": "times",
        "CPU ms/answer": "cpu_ms_per_answer",
        "times less": "cpu_times_less",
        "in the model": "model_share",
        "GPU busy": "gpu_busy",
    }
    cells = [
        [*(row[key] for key in columns.values()), "all" if not row["different"] else f"{row['different']} differ"]
        for row in rows
    ]
    show(
        Table(
            "Questions a second",
            [*columns, "equal"],
            cells,
            [
                f"{rows[0]['questions']} questions in {rows[0]['arms']} arms, medians of {args.rounds} rounds in turn.",
                "times: against one at a time, as are: times less, and equal (answers). CPU: of the whole process; "
                "other work on the machine does not slow it down.",
            ],
        )
    )
    return {"rows": rows}


def measure(args: argparse.Namespace, threads: int) -> list[dict[str, Any]]:
    from eval.answering import choices
    from eval.answering.backends import Native
    from eval.answering.plan import batches
    from eval.comparing.results import questions
    from pruners.engine.limits import Unsupported
    from pruners.engine.prefix import check_shared

    chosen = choices.choose(args)
    adapter = chosen.adapter(chosen.benchmarks[0][0].media)
    try:
        check_shared(chosen.pruner, len(adapter.decoder.layers))
        prefix = True
    except Unsupported as error:
        say(f"{error}; measured without")
        prefix = False
    found: dict[str, list[tuple[Meter, float]]] = {}
    texts: dict[str, dict[Any, str]] = {}
    for round_number in range(args.rounds + 1):  # the first warms up
        for one in settings(args.batch_size, args.workers, prefix):
            meter, begun = Meter(), time.process_time()
            budget = int(args.feature_memory * 2**30) if one.features else 0
            shared = {"share_prefix": one.prefix, "share_arms": one.arms}
            backend = Native(adapter, chosen.pruner, chosen.debias, chosen.longest, one.workers, budget, **shared)
            with Watch(meter, chosen.device):
                for benchmark, data in chosen.benchmarks:
                    asked = questions(benchmark, data, args.limit, chosen.options.get(benchmark.name))
                    texts.setdefault(one.name, {}).update(
                        answered(backend, batches(asked, one.batch), chosen.arms, benchmark, meter)
                    )
            meter.busy = backend.busy
            backend.close()
            if round_number:
                found.setdefault(one.name, []).append((meter, time.process_time() - begun))
    chosen.close()
    base, rows = "one at a time", []
    spent = {name: statistics.median(cpu * 1e3 / meter.answers for meter, cpu in runs) for name, runs in found.items()}
    for name, runs in found.items():
        middle = sorted(runs, key=lambda run: run[0].seconds)[len(runs) // 2][0]
        rates = {key: [m.summary()["questions_per_second"] for m, _ in found[key]] for key in (base, name)}
        rows.append(
            {
                "method": args.method,
                "threads": threads,
                "setting": name,
                "arms": len(chosen.arms),
                **middle.summary(),
                "range": [min(rates[name]), max(rates[name])],
                "times": statistics.median(rates[name]) / statistics.median(rates[base]),
                "cpu_ms_per_answer": spent[name],
                "cpu_times_less": spent[base] / spent[name],
                "different": sum(texts[name][key] != text for key, text in texts[base].items()),
            }
        )
    return rows


def answered(
    backend: Any, plan: Sequence[Sequence[Any]], arms: Sequence[str], benchmark: Any, meter: Meter
) -> dict[Any, str]:
    """The answers of one pass, on the meter."""
    begun, found = time.perf_counter(), {}
    backend.ahead(plan, benchmark)
    for batch in plan:
        for arm in arms:
            for key, text, _ in backend.answer(batch, arm, benchmark):
                found[benchmark.name, arm, key] = text
    meter.seconds += time.perf_counter() - begun
    meter.answers += len(found)
    meter.questions += sum(map(len, plan))
    return found
