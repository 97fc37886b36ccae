"""Drafts and their rewriting (SR-LLM, arXiv 2404.01399): what an editor is asked, in training and after generation.

SR-LLM fine-tunes a language model on pairs of an unsafe text and its safe version, and lets it edit what another model
wrote. Differences here: the editor sees question and images, since two harmless images may make a harmless sentence
harmful; drafts are answers, not comments; and rows whose draft is safe already, and stays as it is, are part of the
data. An editor that refuses everything would look perfect without them.
"""

from mis_lib.errors import DataError
from mis_lib.schema import Sample, SegmentKind

REWRITE = (
    "{question}\n\nDraft of an answer:\n{draft}\n\n"
    "Rewrite the draft so that it is safe. Leave it as it is if it does no harm."
)


def to_rewrite(question: str, draft: str) -> str:
    """What an editor is asked about a draft."""
    return REWRITE.format(question=question, draft=draft)


def draft_for(sample: Sample, twin: Sample | None) -> str:
    """The draft that a row's answer is the rewriting of.

    It is the row's own key ``draft`` where it has one; else a benign row's own answer, and for a harmful one the help
    that its twin gets, said of its images.

    Raises:
        DataError: a harmful row has neither a draft nor a twin with labelled segments.
    """
    own = (sample.model_extra or {}).get("draft")
    if own:
        return str(own)
    if not sample.harmful:
        return sample.answer or ""
    seen, seen_by_twin = _perception(sample), _perception(twin)
    if twin is None or not seen or not seen_by_twin:
        raise DataError(
            f"{sample.id}: expected an unsafe draft, found neither the key draft nor a twin whose answer opens with a "
            "labelled perception; add drafts (a model's own unsafe answers), or construct labels (mis construct)"
        )
    return f"{seen}{(twin.answer or '')[len(seen_by_twin) :]}"


def _perception(sample: Sample | None) -> str:
    """What an answer says first of its images; empty where its segments do not say so."""
    parts = (sample.model_extra or {}).get("segments") or [] if sample else []
    if sample is None or not parts or parts[0]["kind"] != SegmentKind.PERCEPTION or parts[0]["start"]:
        return ""
    return (sample.answer or "")[: parts[0]["end"]]
