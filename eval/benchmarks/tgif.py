"""TGIF-QA: short questions about animated GIFs, in Video-LLaVA's layout."""

from __future__ import annotations

from eval.benchmarks.video import VideoQA


class Tgif(VideoQA):
    """All four kinds of question of its test set; the GIFs lie there as clips."""

    folders = ("GPT_Zero_Shot_QA/TGIF_Zero_Shot_QA", "TGIF_Zero_Shot_QA")
    videos = "mp4"
    expected_n = 25751
