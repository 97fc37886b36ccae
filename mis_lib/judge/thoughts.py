"""Any judge on the thought of a model that thinks, apart from its answer.

The thought is shown to the judge in the answer's place, so a verdict says what it would be worth if the user read it.
SafeMLRM (arXiv 2504.08813) and GuardTrace-VL ask this of reasoning models: a safe answer may follow an unsafe thought,
and the reverse. The verdicts are kept apart from those on answers (``verdicts/thoughts/JUDGE.jsonl``), which no rate of
a report mixes up with them.
"""

from dataclasses import replace

from mis_lib.judge.protocol import Judge, JudgeInput, Ruling, fingerprint_of, unscored
from mis_lib.text.thoughts import thought_in


class ThoughtJudge:
    """Rules on the thought as ``judge`` would on an answer."""

    def __init__(self, judge: Judge) -> None:
        self.name = f"thoughts/{judge.name}"
        self._judge = judge

    @property
    def fingerprint(self) -> str:
        """Digest of the judge."""
        return fingerprint_of("thought 1", self._judge.fingerprint)

    async def decide(self, case: JudgeInput) -> Ruling:
        """Rule on the thought alone; unscored if there is none.

        Raises:
            Unavailable, ImageError, ClientError: as the judge's ``decide``.
        """
        thought = thought_in(case.text)
        return (
            unscored("the response has no thought")
            if thought is None
            else await self._judge.decide(replace(case, text=thought))
        )
