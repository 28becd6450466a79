"""Hurts real evaluations in every way we know, and counts.

python tests/faults                    the long form: 300 kills
python tests/faults --kills 20         fewer
python tests/faults --only kills,judge
python tests/faults --only judged_kills --kills 20      two processes, clips, and a judge behind them
python tests/faults --only fuzz --inputs 1000000 --seconds 7200 --seed 5      garbled inputs for every reader
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `fuzz` reads in this process

import lab as faults
from fuzz import fuzz

EVERY = {
    "kills": lambda lab, args: kills(lab, args.kills, args.seed),
    "judged_kills": lambda lab, args: kills(lab, args.kills, args.seed, faults.judged_kills),
    "full_disk": lambda lab, args: faults.full_disk(lab),
    "read_only": lambda lab, args: faults.read_only(lab),
    "two_runs": lambda lab, args: faults.two_runs(lab),
    "out_of_memory": lambda lab, args: faults.out_of_memory(lab),
    "nan": lambda lab, args: faults.nan(lab),
    "decoder": lambda lab, args: faults.decoder(lab),
    "judge": lambda lab, args: faults.judge(lab),
    "fuzz": lambda lab, args: fuzz(lab.world, lab.scratch / "given" / "llava", args.seconds, args.seed, args.inputs),
}


def kills(lab: faults.Lab, times: int, seed: int, some: Callable[..., Counter[str]] = faults.kills) -> Counter[str]:
    """In tens, so that a long run shows how it goes."""
    total: Counter[str] = Counter()
    while total["kills"] < times:
        total += some(lab, min(10, times - total["kills"]), seed + total["kills"])
        print(f"  {dict(total)}", flush=True)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=300, help="of fuzzing (default %(default)s)")
    parser.add_argument("--inputs", type=int, default=10**9, help="of fuzzing, if the seconds are enough for them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="some of " + ", ".join(EVERY))
    args = parser.parse_args()
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        lab = faults.Lab(Path(scratch))
        for name in args.only.split(",") if args.only else EVERY:
            begun = time.monotonic()
            counted = EVERY[name](lab, args)
            total.update(counted)
            print(f"{name} ({time.monotonic() - begun:.0f} s): " + ", ".join(f"{n} {w}" for w, n in counted.items()),
                  flush=True)  # fmt: skip
        lab.close()
    bad = {name: total[name] for name in ("lost", "doubled", "wrong", "keys shown")}
    print(f"rows checked: {total['rows']}; " + ", ".join(f"{name}: {count}" for name, count in bad.items()))
    return 1 if any(bad.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
