"""MSVD-QA: short questions about YouTube clips, in Video-LLaVA's layout."""

from __future__ import annotations

from eval.benchmarks.video import VideoQA


class Msvd(VideoQA):
    """Clips of the Microsoft Research video description corpus."""

    folders = ("GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA", "MSVD_Zero_Shot_QA")
    videos = "videos"
    expected_n = 13157
