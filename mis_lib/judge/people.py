"""People as a judge: what annotators called an answer is the verdict; what nobody labelled is unscored.

People label answers that are there, so this judge rules on the answers of a run and on no new ones. It knows an answer
by its sample and text, as people see it: the same text of two variants has one verdict.
"""

from collections.abc import Mapping

from mis_lib.judge.protocol import JudgeInput, Ruling, fingerprint_of, unscored
from mis_lib.schema import Outcome

UNDECIDED = "people cannot tell, or differ and nobody has settled it"
Said = tuple[str, str]
"""Sample id and text of an answer (``JudgeInput.text``)."""


class PeopleJudge:
    """Rules as people have labelled.

    Args:
        name: of the judge.
        labels: the outcome of each labelled answer; unscored where people cannot tell, or differ.
    """

    def __init__(self, name: str, labels: Mapping[Said, Outcome]) -> None:
        self.name = name
        self._labels = labels

    @property
    def fingerprint(self) -> str:
        """Digest of the labels: with other labels, all answers are ruled on again."""
        return fingerprint_of("people", sorted([*said, outcome] for said, outcome in self._labels.items()))

    async def decide(self, case: JudgeInput) -> Ruling:
        """Look the label up."""
        said = case.sample.id, case.text
        if said not in self._labels:
            return unscored("nobody has labelled this answer")
        outcome = self._labels[said]
        return unscored(UNDECIDED) if outcome is Outcome.UNSCORED else Ruling(outcome, "labelled by people")
