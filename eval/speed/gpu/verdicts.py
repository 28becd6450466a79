"""What a step's numbers say about the goals: one line each, from the numbers alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Row = dict[str, Any]
REACHED, DEBIAS, SCORE = 0.95, 0.1, 0.3  # of the possible speed-up; per cent of a prefill


def verdicts(result: dict[str, Any]) -> list[dict[str, Any]]:
    """[{"goal", "found", "met"}] of what has been measured; met None: nothing to judge by, or only told."""
    parts = {part["name"]: part["result"] for part in result["parts"] if "result" in part}
    lines = [{"goal": goal, "found": words, "met": met} for goal, words, met in JUDGES[result["step"]](parts)]
    for part in result["parts"]:
        if "failed" in part:
            lines.append({"goal": f"{part['name']} runs", "found": part["failed"], "met": False})
        elif "missing" in part:
            lines.append({"goal": f"{part['name']} runs", "found": f"not run: {part['missing']}", "met": None})
    return lines


Lines = Iterator[tuple[str, str, "bool | None"]]


def smoke(parts: dict[str, Any]) -> Lines:
    """Whether everything runs, and nothing waits that need not."""
    if "tests" in parts:
        said = parts["tests"]["said"][-1]
        passed = int((re.search(r"(\d+) passed", said) or ["", "0"])[1])
        yield "every method runs on every family: all tests pass", said.strip("= "), passed > 0
    if "waits" in parts:
        rows = parts["waits"]["rows"]
        bad = [row for row in rows if row["unknown"] or row["in_layers"]]
        names = ", ".join(f"{row['variant']} ({row['in_layers'] or ', '.join(row['unknown'])})" for row in bad)
        judged = None if parts["waits"]["device"] == "cpu" else not bad
        yield "nothing waits for the device unless it must", names or f"{len(rows)} variants as listed", judged
        base, *pruned = rows
        more = max(row["profiled"] - base["profiled"] for row in pruned)
        yield "waits the profiler counts", f"unpruned {base['profiled']}, pruned at most {more:+d}", None


def speed(parts: dict[str, Any]) -> Lines:
    """Prefill, decoding and memory, and what the methods themselves cost."""
    for name in ("batch 1", "batch 8", "tokens"):
        if name in parts:
            yield from prefill(name, pruned(parts[name]["rows"]))
    if "decoding" in parts:
        rows = pruned(parts["decoding"]["rows"])
        slow = [row for row in rows if row["decode_speed_up"] < 1 - row["decode_spread"]]
        worst = min(rows, key=lambda row: row["decode_speed_up"])
        words = (
            f"at least {worst['decode_speed_up']:.3f} of plain's speed ({named(worst)}), ± {worst['decode_spread']:.3f}"
        )
        yield "decoding is not slower than plain with as many tokens", words, not slow
    if "parts" in parts:
        rows = parts["parts"]["rows"]
        cost = {named(row): row["percent"]["score"] + row["percent"]["select"] for row in rows}
        most = max(cost, key=lambda label: cost[label])
        yield (
            f"score and choice take under {SCORE} % of a prefill",
            f"at most {cost[most]:.3f} % ({most})",
            cost[most] < SCORE,
        )
        dear = max(row["percent"]["debias"] for row in rows)
        yield f"debias takes under {DEBIAS} % of a pruned prefill", f"at most {dear:.4f} %", dear < DEBIAS
    if "debias" in parts:
        dear = max(row["percent_of_prefill"] for row in parts["debias"]["rows"])
        yield f"one debias call takes under {DEBIAS} % of a prefill", f"at most {dear:.5f} %", dear < DEBIAS
    if "fused kernels" in parts:
        rows = parts["fused kernels"]["rows"]
        dear = max(row["percent"]["fused"] for row in rows)
        yield f"fused, score and choice take under {SCORE} % of a prefill", f"at most {dear:.3f} %", dear < SCORE
        faster = ", ".join(f"{row['ratio']:.2f} times at {row['tokens']} tokens" for row in rows)
        yield "the fused kernels are faster than plain torch", faster, all(row["ratio"] > 1 for row in rows)
        strays = max(row["other_tokens"] for row in rows)
        yield "the fused kernels keep the same tokens", f"{strays} others at most", strays == 0
    if "compiled" in parts:
        rows = [row for row in parts["compiled"]["rows"] if row["cache"] == "static"]
        base, *others = rows
        worst = max(others, key=lambda row: row["decode_ms"])
        words = f"{worst['decode_ms']:.2f} ms a token ({worst['variant']}), unpruned {base['decode_ms']:.2f}"
        yield "a compiled step is not slower than plain's", words, worst["decode_ms"] <= base["decode_ms"] * 1.02


def prefill(name: str, rows: Sequence[Row]) -> Lines:
    """The speed-up and the memory of pruned variants."""
    worst = min(rows, key=lambda row: row["reached"])
    enough = sum(row["reached"] >= REACHED for row in rows)
    words = f"{enough} of {len(rows)} variants; least {worst['reached']:.2f} ({named(worst)})"
    yield f"{name}: {REACHED} of the possible speed-up", words, enough == len(rows)
    held = [row for row in rows if row["memory"] is not None]
    if held:
        most = max(held, key=lambda row: row["memory"])
        yield f"{name}: memory not above unpruned", f"at most {most['memory']:.3f} ({named(most)})", most["memory"] <= 1


def forks(parts: dict[str, Any]) -> Lines:
    """Whether ours is ahead of each of the authors' codes."""
    for name, result in parts.items():
        ratios = [row["ratio"] for row in result["rows"]]
        words = f"theirs over ours {min(ratios):.2f} to {max(ratios):.2f}"
        yield f"{name}: ahead of the authors' code", words, min(ratios) > 1


def throughput(parts: dict[str, Any]) -> Lines:
    """What sharing work brings, and whether it changes answers."""
    for name, result in parts.items():
        rows = result["rows"]
        best, changed = max(rows, key=lambda row: row["times"]), max(row["different"] for row in rows)
        words = f"{best['questions_per_second']:.1f} questions a second, {best['times']:.1f} times ({best['setting']})"
        yield f"{name}: sharing work pays", words, best["times"] > 1
        yield f"{name}: every way answers alike", f"{changed} answers differ at most", changed == 0


def train(parts: dict[str, Any]) -> Lines:
    """How training ended, and what both models can do; nothing is judged."""
    if "training" in parts:
        yield "every stage is through", parts["training"]["said"][-1], None
    for name in ("the new model", "the shipped model"):
        if name in parts:
            scores = parts[name]["averages"]
            yield f"right answers of {name}, per cent", ", ".join(f"{arm} {scores[arm]:.1f}" for arm in scores), None


def vllm(parts: dict[str, Any]) -> Lines:
    """The last line that each part said."""
    for name, result in parts.items():
        yield f"{name} succeeds", " ".join(result["said"][-1:]).strip("= "), True


def pruned(rows: Sequence[Row]) -> list[Row]:
    """The rows of variants that prune."""
    return [row for row in rows if row["method"] is not None]


def named(row: Row) -> str:
    """A row in words."""
    return f"{row['variant']}, batch {row['batch']}, {row['tokens']} tokens"


JUDGES: dict[str, Callable[[dict[str, Any]], Lines]]
JUDGES = {judge.__name__: judge for judge in (smoke, speed, forks, throughput, train, vllm)}
