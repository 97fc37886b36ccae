"""People's labels on the answers of a run: as verdicts, and as the judge ``people``."""

from pathlib import Path

from mis_lib.annotate.calibration import PEOPLE, read_people
from mis_lib.annotate.decisions import CurrentLabels, key_of
from mis_lib.annotate.store import AnnotationStore
from mis_lib.errors import DataError
from mis_lib.judge.people import PeopleJudge, Said
from mis_lib.recipes.progress import say
from mis_lib.results.evaluated import run_name
from mis_lib.results.runs import Run
from mis_lib.schema import Outcome, Verdict
from mis_lib.text.thoughts import written


def annotated(run: Run) -> list[Verdict]:
    """People's verdicts on the answers of a run; labels of other answers with the same names are left out.

    An answer is unscored if people could not decide, or differ without adjudication.
    """
    labels, name = CurrentLabels(), run_name(run)
    labels.take(AnnotationStore(root=run.folder.parent.parent).labels())
    there = {key_of(name, one.sample_id, one.variant, one.text) for one in run.responses()}
    labelled = [
        key
        for key in labels.keys
        if key[0] == name and any(label.decision.outcome is not None for label in labels.of(key))
    ]
    if gone := sum(key not in there for key in labelled):
        say(f"{gone:,} labels are left out: {name} has another answer now than people looked at, or none")
    return [
        Verdict(sample_id=key[1], variant=key[2], judge=PEOPLE, outcome=labels.settled(key) or Outcome.UNSCORED)
        for key in labelled
        if key in there
    ]


def people_judge(name: str, run: Run, file: Path | None = None) -> PeopleJudge:
    """The judge ``people`` of a run.

    Args:
        name: of the judge.
        run: whose answers people have labelled.
        file: JSON Lines of people's verdicts [default: the annotations next to the run].

    Raises:
        DataError: there is no label of these answers.
    """
    verdicts = annotated(run) if file is None else read_people(file)
    given = {(one.sample_id, one.variant): one.outcome for one in verdicts}
    labels: dict[Said, Outcome] = {}
    for one in run.responses():
        if (outcome := given.get((one.sample_id, one.variant))) is not None:
            said = one.sample_id, written(one.thought, one.text, one.finish_reason)
            labels[said] = outcome if labels.get(said, outcome) == outcome else Outcome.UNSCORED
    if not labels:
        raise DataError(
            f"{run.folder}: expected answers that people have labelled, found none in {file or 'the annotations'}; "
            "label some in the tab Annotate, or import labels (mis annotations import)"
        )
    return PeopleJudge(name, labels)
