"""On the path of a run of several processes: the rank that the environment names stands still after its third row."""

import os
import signal

if "HALTING_RANK" in os.environ and os.environ["HALTING_RANK"] == os.environ.get("RANK"):
    from eval.answering.store import Shard

    whole, rows = Shard.append, []

    def append(shard, row):
        whole(shard, row)
        rows.append(row)
        if len(rows) == 3:
            signal.pause()  # until somebody kills it, however long that takes

    Shard.append = append
