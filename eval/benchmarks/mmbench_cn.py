"""MMBench-CN dev: the Chinese MMBench, in the release of 2023-10-03 (not the English questions translated)."""

from __future__ import annotations

from eval.benchmarks.mmbench import Mmbench


class MmbenchCn(Mmbench):
    """Multiple choice in Chinese, scored as in English."""

    folders = ("mmbench_cn", "mmbench")  # LLaVA's script and its documentation differ
    dev = "mmbench_dev_cn_20231003"
    marks = ("mmbench_*cn*.tsv",)
    expected_n = 4329
    expected_groups = 1164
    instruction = "请直接回答选项字母。"
