"""Which questions a process answers, and in which batches: decided by the questions alone, so always the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.reading.sample import Sample

WINDOW = 32  # batches among which questions are sorted by length


@dataclass(frozen=True)
class Process:
    """The place of a process among those of its launch."""

    rank: int = 0
    size: int = 1
    local: int = 0  # which device of this machine


def this_process(environment: Mapping[str, str] | None = None) -> Process:
    """This process's place, as torchrun, accelerate, deepspeed, srun and mpirun tell it.

    srun's own step counts, not the job: a batch script alone is one process, whatever the job was given.
    """
    env = os.environ if environment is None else environment
    for rank, size, local in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ):
        if rank in env and size in env:
            place = Process(int(env[rank]), int(env[size]), int(env.get(local, 0)))
            if not 0 <= place.rank < place.size:
                raise ValueError(f"{rank}={place.rank} with {size}={place.size}: expected 0 <= {rank} < {size}")
            return place
    return Process()


def number(text: str) -> int:
    """A number of 64 bits that belongs to a text, the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def share(samples: Sequence[Sample], place: Process) -> list[Sample]:
    """The questions that one process answers."""
    return [sample for sample in samples if number(sample.key) % place.size == place.rank]


def grouped(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Questions by what they share: their picture, clip or circular group."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    return groups


def limited(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """At most `limit` questions (and at least one group), the same every time, whole groups, in file order.

    Groups stay whole because circular and paired scores need all of a group; they are taken in the order of a hash, so
    that a small sample is spread over the file and over its categories.
    """
    if limit is None or limit >= len(samples):
        return list(samples)
    groups, chosen = grouped(samples), set[str]()
    for group in sorted(groups, key=lambda name: (number(name), name)):
        members = groups[group]
        if chosen and len(chosen) + len(members) > limit:
            continue
        chosen.update(sample.key for sample in members)
        if len(chosen) >= limit:
            break
    return [sample for sample in samples if sample.key in chosen]


def batches(samples: Sequence[Sample], size: int) -> list[list[Sample]]:
    """Questions about one picture stay near each other, and within a window those of one length go together."""
    ordered = [sample for members in grouped(samples).values() for sample in members]
    out = []
    for first in range(0, len(ordered), size * WINDOW):
        window = sorted(ordered[first : first + size * WINDOW], key=lambda sample: len(sample.text))
        out += [window[i : i + size] for i in range(0, len(window), size)]
    return out


def digest(samples: Sequence[Sample]) -> str:
    """Names the questions: another text, order, group or target is another digest."""
    seen = hashlib.sha256()
    for sample in samples:
        seen.update(json.dumps([sample.key, sample.text, sample.group, repr(sample.target)]).encode())
    return seen.hexdigest()[:16]
