"""What to ask next: one skill in focus, the known skills rehearsed.

Asked all at once, a small model learns none of the skills; one at a time each clicks within minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiny.training.lessons import Skill

KNOWN, READY = 0.9, 0.8  # share of right answers: the skill counts as known; others may build on it
PATIENCE, GAIN = 150, 0.1  # steps for one skill; when they gain less than this, the next has its turn
MEMORY = 200  # answers over which accuracy is averaged


class Curriculum:
    """How well each skill is known, and which is to be learned next."""

    def __init__(self, skills: Mapping[str, Skill]) -> None:
        self.skills = skills
        self.accuracy = dict.fromkeys(skills, 0.0)
        self.steps = dict.fromkeys(skills, 0)  # as the focus
        self.turns = dict.fromkeys(skills, 0)  # that ended without being known
        self.before = dict.fromkeys(skills, 0.0)  # accuracy when the last PATIENCE steps began

    def ready(self, *skills: str) -> bool:
        """Whether others may build on all of these skills."""
        return all(self.accuracy[skill] >= READY for skill in skills)

    @property
    def focus(self) -> str | None:
        """The first skill that is within reach and not known; they take turns, for as long as it does them good."""
        open_ = [
            name for name, skill in self.skills.items() if self.accuracy[name] < KNOWN and self.ready(*skill.after)
        ]
        return min(open_, key=lambda name: self.turns[name], default=None)

    def weights(self) -> dict[str, float]:
        """Half of the questions for the focus, the other half for what was taken up before, weak skills more often."""
        focus = self.focus
        old = {name: 1.1 - self.accuracy[name] for name in self.skills if self.steps[name] and name != focus}
        shares = {name: weight / sum(old.values()) for name, weight in old.items()}
        return shares | ({focus: 1.0} if focus else {})

    def everything(self) -> dict[str, float]:
        """All skills alike: at the end nothing is in the middle of attention."""
        return dict.fromkeys(self.skills, 1.0)

    def learn(self, skills: list[str], right: list[bool]) -> None:
        """Takes note of a batch's answers and passes one step."""
        focus = self.focus
        if focus:
            self.steps[focus] += 1
            if self.steps[focus] % PATIENCE == 0:
                self.turns[focus] += self.accuracy[focus] < self.before[focus] + GAIN
                self.before[focus] = self.accuracy[focus]
        for skill, hit in zip(skills, right, strict=True):
            self.accuracy[skill] += (hit - self.accuracy[skill]) / MEMORY

    def report(self) -> dict[str, int]:
        """The accuracy in percent of each skill that was taken up."""
        return {name: round(100 * value) for name, value in self.accuracy.items() if self.steps[name]}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"accuracy": self.accuracy, "steps": self.steps, "turns": self.turns, "before": self.before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        for key, values in state.items():
            setattr(self, key, dict(values))
