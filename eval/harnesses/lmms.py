"""Pruned models inside lmms-eval, where they are called `debias`: every method and arm on every task that generates.

  lmms-eval --model debias --model_args pretrained=llava-hf/llava-1.5-7b-hf,method=fastv,keep=128,arm=both \\
            --tasks pope,gqa --batch_size 8

The model_args are those of `eval.harnesses.pruned.Pruned`. Prompts are those that the model's family was trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from lmms_eval.api.model import lmms

from eval.answering.progress import Progress
from eval.harnesses.pruned import Pruned, Rows, decoding

BLANK_LINE = "\n\n"  # what tasks stop at that name nothing; answers of several paragraphs would lose all but the first
ONLY_GENERATION = "the model debias generates answers and gives no likelihoods; take the task's generative variant"


class Simple(lmms):  # type: ignore[misc]  # lmms-eval need not be installed where types are checked
    """Asked with a context and the pictures that belong to it."""

    is_simple = True

    def __init__(
        self,
        pretrained: str | None = None,
        batch_size: int | str | None = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        rows: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if not str(batch_size or 1).isdecimal():
            raise ValueError(f"batch_size={batch_size}: expected a whole number; a batch that is too big is halved")
        self.batch_size = int(batch_size or 1)
        # of several processes each takes its own device, which "cuda" would not say
        self.pruned = Pruned.from_text(pretrained, device=None if device == "cuda" else device, **settings)
        self.rows = None if rows is None else Rows(rows)
        self.device = self.pruned.model.device

    def parts(self, args: Sequence[Any]) -> list[tuple[str, Any]]:
        """The question of one request, in parts."""
        context, _, visuals, doc, task, split = args
        media = visuals(self.task_dict[task][split][doc]) or []
        return [*((_kind(item), item) for item in media), ("text", context)]

    def wanted(self, args: Sequence[Any]) -> dict[str, Any]:
        """How one request is to be answered."""
        return dict(args[1] or {})

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        texts: list[str] = []
        with Progress(len(requests)) as progress:
            for _, same in itertools.groupby(requests, lambda request: repr(self.wanted(request.args))):
                while batch := [request.args for request in itertools.islice(same, self.batch_size)]:
                    texts += self._answer(batch)
                    progress.advance(len(batch), str(batch[0][4]))
        return texts

    def _answer(self, batch: Sequence[Sequence[Any]]) -> list[str]:
        wanted = self.wanted(batch[0])
        asked = [self.pruned.request(self.parts(args)) for args in batch]
        answers = self.pruned(asked, **decoding(wanted))
        for args, answer in zip(batch, answers, strict=True):
            if self.rows is not None:
                self.rows.add(answer, task=args[4], split=args[5], doc_id=args[3], arm=self.pruned.arm)
        return [until(answer.text, wanted.get("until")) for answer in answers]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise ValueError(ONLY_GENERATION)

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise ValueError("the model debias answers single questions; tasks of several rounds are not for it")

    def clean(self) -> None:
        self.pruned.close()
        super().clean()


class Chat(Simple):
    """Asked with messages, in which pictures may stand between the texts."""

    is_simple = False

    def parts(self, args: Sequence[Any]) -> list[tuple[str, Any]]:
        _, messages, _, doc, task, split = args
        asked = messages(self.task_dict[task][split][doc])
        roles = [message["role"] for message in asked]
        if roles != ["user"]:
            raise ValueError(
                f"{task}: a conversation of {', '.join(roles)}; expected one message of the user, because the model's "
                "own template brings its system message. Run without --system_instruction and few-shot turns"
            )
        return [(part["type"], part["text" if part["type"] == "text" else "url"]) for part in asked[0]["content"]]

    def wanted(self, args: Sequence[Any]) -> dict[str, Any]:
        return dict(args[2] or {})


def until(text: str, stops: str | Sequence[str] | None) -> str:
    """The answer up to the first of the task's stop strings."""
    for stop in [stops] if isinstance(stops, str) else stops or []:
        if stop and stop != BLANK_LINE:
            text = text.partition(stop)[0]
    return text.strip()


def _kind(medium: Any) -> str:
    """lmms-eval hands over pictures, and clips as paths."""
    return "video" if isinstance(medium, str) else "image"
