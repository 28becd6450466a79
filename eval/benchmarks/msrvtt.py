"""MSRVTT-QA: short questions about web videos, in Video-LLaVA's layout."""

from __future__ import annotations

from eval.benchmarks.video import VideoQA


class Msrvtt(VideoQA):
    """Clips of MSR-VTT, all splits in one folder."""

    folders = ("GPT_Zero_Shot_QA/MSRVTT_Zero_Shot_QA", "MSRVTT_Zero_Shot_QA")
    videos = "videos/all"
    expected_n = 72821
