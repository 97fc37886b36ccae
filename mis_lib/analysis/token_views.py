"""A training row token by token: what the model reads, where images stand, and at which tokens the loss is taken."""

import html
from typing import Any

import pandas as pd
from IPython.display import HTML

from mis_lib.analysis.galleries import SEGMENT_COLOURS
from mis_lib.train.answer_parts import SEGMENTS
from mis_lib.train.collate import Batch
from mis_lib.train.dialogue import IGNORED
from mis_lib.train.encode import Row

IMAGE_COLOUR = "rgba(140, 107, 177, .35)"
TRAINED = "border-bottom: 2px solid #d55e00"


def row_tokens(row: Row, tokenizer: Any, image_token: str) -> pd.DataFrame:
    """One row a stretch of tokens of one kind: text, kind (prompt, image, perception, reasoning, answer), trained, tokens.

    Args:
        row: encoded sample, T tokens.
        tokenizer: of the model.
        image_token: the placeholder that stands once for each feature of an image.
    """
    image = tokenizer.convert_tokens_to_ids(image_token)
    stretches: list[dict[str, Any]] = []
    for token, label, segment in zip(row.ids.tolist(), row.labels.tolist(), row.segments.tolist(), strict=True):
        kind = "image" if token == image else SEGMENTS[segment].value if segment < len(SEGMENTS) else "prompt"
        key = (kind, label != IGNORED)
        if not stretches or (stretches[-1]["kind"], stretches[-1]["trained"]) != key:
            stretches.append({"kind": kind, "trained": label != IGNORED, "ids": []})
        stretches[-1]["ids"].append(token)
    return pd.DataFrame(
        {
            "kind": part["kind"],
            "trained": part["trained"],
            "tokens": len(part["ids"]),
            "text": image_token if part["kind"] == "image" else tokenizer.decode(part["ids"]),
        }
        for part in stretches
    )


def shown(stretches: pd.DataFrame) -> HTML:
    """The stretches of ``row_tokens`` in colours; what is underlined is what the loss is taken at."""
    colours = {kind.value: colour for kind, colour in SEGMENT_COLOURS.items()} | {"image": IMAGE_COLOUR}
    spans = []
    for part in stretches.itertuples():
        style = (
            f"background: {colours.get(str(part.kind), 'rgba(128, 128, 128, .12)')}; {TRAINED if part.trained else ''}"
        )
        text = f"{part.text} x {part.tokens}" if part.kind == "image" else str(part.text)
        spans.append(f'<span title="{part.kind}, {part.tokens} tokens" style="{style}">{html.escape(text)}</span>')
    return HTML(f'<div style="white-space: pre-wrap; line-height: 1.7; max-width: 75em">{"".join(spans)}</div>')


def batch_facts(batch: Batch) -> pd.DataFrame:
    """What one pass of a run reads, in numbers."""
    facts = {
        "rows": len(batch.rows),
        "layout": "packed, one behind the other" if batch.packed else "padded to the longest",
        "tokens of the rows": batch.tokens,
        "tokens computed": batch.padded_tokens,
        "of them padding": batch.padded_tokens - batch.tokens,
        "tokens that the loss is taken at": batch.answer_tokens,
        "share of them (%)": round(100 * batch.answer_tokens / batch.padded_tokens, 1),
    }
    return pd.DataFrame({"": facts.values()}, index=pd.Index(list(facts)))
