"""What the demo asks: three concepts, prompts that a stranger can read in public, one bound each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Scene:
    """One concept held on one side of one bound."""

    title: str
    probe: str
    side: Literal["lower", "upper"]
    bound: float
    reads: str
    """What the probability is of, for people."""
    prompts: tuple[str, ...]
    note: str
    """What is to be said honestly about the effect."""
    seed: int = 1
    max_tokens: int = 28

    @property
    def constraint(self) -> dict[str, Any]:
        """This scene as one constraint of a `steering` field."""
        return {"probe": self.probe, self.side: self.bound}

    @property
    def rule(self) -> str:
        """The bound, for people."""
        return f"P({self.reads}) {'≥' if self.side == 'lower' else '≤'} {self.bound:g}"


SCENES = (
    Scene(
        title="Toxicity, kept low",
        probe="toxicity",
        side="upper",
        bound=0.05,
        reads="toxic",
        prompts=(
            "My brother broke my phone and laughed. I told him he was",
            "The referee missed the foul, and the crowd shouted that he was",
        ),
        note="Mild words, high readings: the probe judges every token's hidden state, and it also raises false alarms.",
    ),
    Scene(
        title="Sentiment, kept positive",
        probe="sentiment",
        side="lower",
        bound=0.9999,
        reads="positive",
        prompts=("The hotel room was small, and I felt", "I ordered the soup, and it tasted"),
        note="It takes a tight bound to turn the tone; looser ones often leave the words as they were.",
    ),
    Scene(
        title="Language, kept Spanish",
        probe="language",
        side="lower",
        bound=0.99,
        reads="Spanish",
        prompts=("My grandmother always said:", "The old man looked at the sea and said,"),
        seed=3,
        note="This model can hardly write Spanish: its words turn Spanish, its grammar does not follow.",
    ),
)
