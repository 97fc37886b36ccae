"""Checks: what can be wrong with the texts and labels of a row, with its images, and with rows among each other.

Each check takes views and yields findings; none stops at the first. A data set has *safety chains of thought* if its
harmful rows are mostly answered at length and not by refusals (``is_cot``); in such a set an answer that opens with a
refusal is a leak of the label ablation, which teaches to refuse and not to reason (paper section 4, tables 11 and 12).
"""

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mis_lib.data.findings import Finding, Kind
from mis_lib.data.formats import EARLIER_ANSWERS, LATER_TURNS, Form, View
from mis_lib.data.images import Headers
from mis_lib.data.mixtures import BLACK
from mis_lib.errors import close_to
from mis_lib.schema import TAXONOMY
from mis_lib.text.sentences import normalised

COT_WORDS = 25  # a refusal has some 8 words, MIS-Mini's shortest chain of thought 30, MIS's some 200
BROKEN_OFF_WORDS = 40  # shorter answers (names, options) need no full stop
COPIED_WORDS = 8

NOT_SHOWN = {
    LATER_TURNS: (
        "fine-tuning learns their answers too, but DPO and RAFT do not, and no model is asked them",
        "leave them, or make a separate row of each question that is to be asked",
    ),
    EARLIER_ANSWERS: (
        "training takes them as context and learns the last answer alone",
        "leave them, or make a separate row of each answer that is to be learned",
    ),
}
SPECIAL_TOKEN = re.compile(
    r"<\|[a-z_]{2,30}\|>|</?s>|</?img>|<IMG_CONTEXT>|<ImageHere>|<image_?\d+>|<fake_token_around_image>"
    r"|<end_of_utterance>|\[/?INST\]|<video>"
)
DAMAGED = re.compile("\ufffd|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\u00e2\u20ac|\u00c3[\u0080-\u00bf]|[\ud800-\udfff]")


def row_findings(seen: View, headers: Headers) -> Iterator[Finding]:
    """Everything that can be said about one row without its neighbours."""
    yield from seen.findings
    yield from text_findings(seen)
    yield from _category_findings(seen)
    yield from image_findings(seen, headers)
    for what in seen.not_shown:
        consequence, fix = NOT_SHOWN[what]
        message = f"expected one question and one answer, found {what} beside them; {consequence}"
        yield seen.place.finding(Kind.NOT_SHOWN, "", message, fix)


def image_findings(seen: View, headers: Headers) -> Iterator[Finding]:
    """What is wrong with the images of a row."""
    for number, name in enumerate(seen.images):
        where = f"image_path{number + 1}" if seen.form is Form.MIS_TEST else f"images[{number}]"
        for problem in headers[name].problems:
            yield seen.place.finding(problem.kind, where, f"{name}: {problem.message}", problem.fix)
    again = next((name for number, name in enumerate(seen.images) if name in seen.images[:number]), None)
    if again is not None and not again.endswith(BLACK):  # which text-only rows show once for each image
        message = f"expected different images, found {again} twice"
        yield seen.place.finding(Kind.SAME_IMAGE_TWICE, "images", message, "check which image was meant")


def set_findings(views: Sequence[View], *, cot: bool) -> Iterator[Finding]:
    """What is wrong with the rows of one file among each other; ``cot``: its labels are safety chains of thought."""
    yield from _repeated_ids(views)
    yield from _repeated_rows(views)
    yield from _twins(views)
    yield from _missing_answers(views)
    yield from _rows_of_text(views)
    for seen in views:
        yield from _label_findings(seen, cot=cot)


def shared_ids(files: Sequence[Sequence[View]]) -> Iterator[Finding]:
    """Rows with an id of an earlier file: read as one set, they would be taken for the same row."""
    first: dict[str, View] = {}
    for views in files:
        for seen in views:
            other = first.setdefault(seen.place.id, seen)
            if seen.place.id and other.place.file != seen.place.file:
                message = f"expected an id of its own, found that of {other.place.file}, row {other.place.row}"
                fix = "number the rows anew, or remove one of the two files"
                yield seen.place.finding(Kind.DUPLICATE_ID, "id", message, fix)


def is_cot(views: Iterable[View]) -> bool:
    """Whether harmful rows (or rows that do not say) are mostly answered at length, and not mostly by refusals.

    Refusals may be long: VLGuard's are.
    """
    answered = [seen for seen in views if seen.answer and seen.harmful is not False]
    lengths = [len((seen.answer or "").split()) for seen in answered]
    if not lengths or statistics.median(lengths) < COT_WORDS:
        return False
    return 2 * sum(seen.declines for seen in answered) <= len(answered)


def text_findings(seen: View) -> Iterator[Finding]:
    """What is wrong with question and answer as texts."""
    for name, text in (("question", seen.question), ("answer", seen.answer or "")):
        if stray := SPECIAL_TOKEN.search(text):
            message = f"expected plain text, found the special token {stray[0]}"
            yield seen.place.finding(
                Kind.SPECIAL_TOKEN, name, message, "remove it: templates add such tokens themselves"
            )
        if damaged := DAMAGED.search(text):
            around = text[max(0, damaged.start() - 15) : damaged.end() + 15]
            message = f"expected readable text, found {around!r}"
            yield seen.place.finding(Kind.DAMAGED_TEXT, name, message, "read the source as UTF-8 and write it again")
    answer = normalised(seen.answer or "")
    if len(answer.split()) >= COPIED_WORDS and answer in normalised(seen.question):
        message = "expected an answer of its own, found it word for word in the question"
        yield seen.place.finding(Kind.ANSWER_IN_QUESTION, "question", message, "take the answer out of the question")
    words = (seen.answer or "").split()
    if len(words) > BROKEN_OFF_WORDS and (words[-1][-1].isalnum() or words[-1][-1] in ",;-"):
        message = f"expected a finished sentence, found the end {' '.join(words[-5:])!r}"
        yield seen.place.finding(Kind.BROKEN_OFF, "answer", message, "let the teacher finish (its token limit?)")


def _label_findings(seen: View, *, cot: bool) -> Iterator[Finding]:
    if not seen.answer or seen.mask_eos or not (cot or seen.harmful is False) or not seen.declines:
        return
    found = f"found {seen.answer[:50]!r}"
    if seen.harmful is False:
        message = f"expected help on a benign row, {found}"
        yield seen.place.finding(Kind.BENIGN_REFUSED, "answer", message, "answer it helpfully, or mark it harmful")
    else:
        message = f"expected a safety chain of thought as in the other rows, {found}"
        fix = "write the reasoning first, or make a refusal set of all rows (--mixture refusal)"
        yield seen.place.finding(Kind.LABEL_LEAK, "answer", message, fix)


def _category_findings(seen: View) -> Iterator[Finding]:
    if seen.category is None:
        return
    if seen.category not in TAXONOMY:
        message = f"expected one of {', '.join(TAXONOMY)}, found {seen.category!r}{close_to(seen.category, TAXONOMY)}"
        yield seen.place.finding(
            Kind.UNKNOWN_CATEGORY, "category", message, "spell it as MIS does; rates are by category"
        )
    elif seen.sub_category is not None and seen.sub_category not in TAXONOMY[seen.category]:
        known = TAXONOMY[seen.category]
        found = f"{seen.sub_category!r}{close_to(seen.sub_category, known)}"
        message = f"expected one of {', '.join(known)} for {seen.category!r}, found {found}"
        yield seen.place.finding(Kind.WRONG_SUB_CATEGORY, "sub_category", message, "spell it as MIS does")


def _repeated_ids(views: Sequence[View]) -> Iterator[Finding]:
    for _, group in _groups(views, lambda seen: seen.place.id).items():
        for seen in group[1:]:
            message = f"expected an id of its own, found that of row {group[0].place.row}"
            yield seen.place.finding(Kind.DUPLICATE_ID, "id", message, "number the rows anew, or remove one of the two")


def _repeated_rows(views: Sequence[View]) -> Iterator[Finding]:
    """Rows that ask the same about the same images.

    Questions about harm asked again, unless twins share them by design.
    """
    for _, group in _groups(views, lambda seen: normalised(seen.question)).items():
        first: dict[tuple[str, ...], View] = {}
        for seen in group:
            earlier = first.setdefault(tuple(seen.images), seen)
            if earlier is not seen:
                yield _same_row(seen, earlier)
        others = [seen for seen in first.values() if seen.harmful is not False and not seen.twin_id]
        if len(others) > 1:
            message = (
                f"expected questions of their own, found that of row {others[0].place.row} in {len(others) - 1} more"
            )
            fix = "word them differently, or a model learns the template"
            yield others[1].place.finding(Kind.REPEATED_QUESTION, "question", message, fix, rows=len(others) - 1)


def _same_row(seen: View, earlier: View) -> Finding:
    message = f"expected a new row, found question and images of row {earlier.place.row}"
    if (seen.answer or "") == (earlier.answer or "") and seen.harmful == earlier.harmful:
        return seen.place.finding(Kind.DUPLICATE_ROW, "question", message, "remove one of the two")
    message += " with another answer or label"
    return seen.place.finding(Kind.CONTRADICTION, "question", message, "keep the right one of the two")


def _twins(views: Sequence[View]) -> Iterator[Finding]:
    """A twin is there, points back, and is of the other kind."""
    by_id = {seen.place.id: seen for seen in views}
    for seen in views:
        if seen.twin_id is None:
            continue
        twin = by_id.get(seen.twin_id)
        fix = "give both rows each other's id, one harmful and one not"
        if twin is None:
            message = f"expected a row with the id {seen.twin_id!r}, found none in this file"
        elif twin.twin_id != seen.place.id:
            message = f"expected row {twin.place.row} to name this one as its twin, found {twin.twin_id!r}"
        elif twin.harmful == seen.harmful and seen.harmful is not None:
            message = f"expected one harmful and one benign row, found harmful {str(seen.harmful).lower()} in both"
        else:
            continue
        yield seen.place.finding(Kind.TWIN, "twin_id", message, fix)


def _missing_answers(views: Sequence[View]) -> Iterator[Finding]:
    """Rows without an answer among rows that have one: a test set has none at all, a training set one in every row."""
    without = [seen for seen in views if seen.answer is None and seen.form in (Form.SAMPLE, Form.MIS_TEST)]
    if 2 * len(without) < len(views):
        for seen in without:
            message = f"expected an answer as in {len(views) - len(without):,} other rows, found none"
            yield seen.place.finding(Kind.MISSING_FIELD, "answer", message, "write the label, or remove the row")


def _rows_of_text(views: Sequence[View]) -> Iterator[Finding]:
    """Rows without images among more rows that have some: they may have lost theirs."""
    without = [seen for seen in views if seen.sample is not None and not seen.images]
    if 2 * len(without) < len(views):
        for seen in without:
            message = "expected images as in most rows, found a row of text"
            fix = "leave it, if it is meant to be asked and learned without an image, or name its images"
            yield seen.place.finding(Kind.TEXT_ROW, "images", message, fix)


def _groups(views: Iterable[View], key: Callable[[View], str]) -> Mapping[str, list[View]]:
    """Views that share a key, in order; rows without one belong to no group."""
    groups: dict[str, list[View]] = defaultdict(list)
    for seen in views:
        if name := key(seen):
            groups[name].append(seen)
    return groups
