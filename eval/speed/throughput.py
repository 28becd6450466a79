"""How many questions a second a whole evaluation answers, and what each way of sharing work brings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.answering.backends import Native
from eval.answering.meter import Meter
from eval.answering.plan import batches
from eval.answering.resolved import resolve
from eval.core.settings import Settings
from eval.core.tables import Table, say
from eval.scoring.results import questions
from eval.speed.measure import in_turn
from pruners.engine.limits import Unsupported
from pruners.engine.prefix import check_shared


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


def measure(asked: Settings, threads: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each way of sharing work, on the CPU with so many threads."""
    chosen = resolve(asked)
    adapter = chosen.adapter(chosen.benchmarks[0][0].media)
    try:
        check_shared(chosen.pruner, len(adapter.decoder.layers))
        prefix = True
    except Unsupported as error:
        say(f"{error}; measured without")
        prefix = False
    texts: dict[str, dict[Any, str]] = {}

    def once(setting: Setting) -> tuple[Meter, float]:
        meter, begun = Meter(), time.process_time()
        budget = int(asked.feature_memory * 2**30) if setting.features else 0
        shared = {"share_prefix": setting.prefix, "share_arms": setting.arms}
        backend = Native(adapter, chosen.pruner, chosen.debias, chosen.longest, setting.workers, budget, **shared)
        with meter.watching(chosen.device):
            for benchmark, data in chosen.benchmarks:
                drawn = questions(benchmark, data, asked.limit, asked.options.get(benchmark.name))
                plan = batches(drawn, setting.batch)
                texts.setdefault(setting.name, {}).update(answered(backend, plan, chosen.arms, benchmark, meter))
        meter.busy = backend.busy
        backend.close()
        return meter, time.process_time() - begun

    taken = in_turn(once, settings(asked.batch_size, asked.workers, prefix), rounds)
    by_name = {setting.name: runs for setting, runs in taken.items()}
    chosen.close()
    base, rows = "one at a time", []
    spent = {
        name: statistics.median(cpu * 1e3 / meter.answers for meter, cpu in runs) for name, runs in by_name.items()
    }
    for name, runs in by_name.items():
        middle = sorted(runs, key=lambda run: run[0].seconds)[len(runs) // 2][0]
        rates = {key: [m.summary()["questions_per_second"] for m, _ in by_name[key]] for key in (base, name)}
        rows.append(
            {
                "method": asked.method,
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
    begun, texts = time.perf_counter(), {}
    backend.ahead(plan, benchmark)
    for batch in plan:
        for arm in arms:
            for key, text, _ in backend.answer(batch, arm, benchmark):
                texts[benchmark.name, arm, key] = text
    meter.seconds += time.perf_counter() - begun
    meter.answers += len(texts)
    meter.questions += sum(map(len, plan))
    return texts


COLUMNS = {
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


def table(result: dict[str, Any]) -> Table:
    """The ways beside each other; `result` has the rows and the number of rounds."""
    rows = result["rows"]
    cells = [
        [*(row[key] for key in COLUMNS.values()), "all" if not row["different"] else f"{row['different']} differ"]
        for row in rows
    ]
    notes = [
        f"{rows[0]['questions']} questions in {rows[0]['arms']} arms, medians of {result['rounds']} rounds in turn.",
        "times: against one at a time, as are: times less, and equal (answers). CPU: of the whole process; other work "
        "on the machine does not slow it down.",
    ]
    return Table("Questions a second", [*COLUMNS, "equal"], cells, notes)
