"""A trial before training: rows that share a pass have the image features and losses that each has alone.

Some models index images within a batch (Molmo2), let image tokens see later ones (Gemma 3, PaliGemma), or carry a state
from token to token (Qwen3.5). No list of names is complete, so two or three rows are tried in some forward passes
without gradient. What differs is not used: packed rows become padded ones, padded rows a pass each.

The reference is a row alone, from its pixels. It must itself be right: answer tokens see no later ones, and the labels
are the answer.

Legend: N tokens at which the loss is taken, T tokens of a row, H width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from typing import Any, NamedTuple

import torch
import transformers

from mis_lib.errors import MisError, ModelError, SettingsError, TrainingError
from mis_lib.train.batches import collate
from mis_lib.train.distributed import same_for_all
from mis_lib.train.encode import IGNORED, SHOWN, EncodedRow, Encoder, Example, without_spaces
from mis_lib.train.features import FeatureCache
from mis_lib.train.model import FORWARD_ERRORS, Loaded
from mis_lib.train.packing import decoder_of, no_packing, pack
from mis_lib.train.settings import TrainSettings
from mis_lib.train.sharding import holds_weights, whole_by_layer
from mis_lib.train.trainer import model_inputs

ROWS = 3
"""Rows that are tried together at most."""
PAIRS = 32
"""Pairs of answers from which those to try are chosen, since their lengths are not known yet."""
UNPACKED = "Rows are padded, not packed: {}"


class Tolerance(NamedTuple):
    """How far a row may be from what it is alone; roots of mean squared differences.

    In bfloat16 other shapes round otherwise: mini's packed rows are 0.09 to 0.13 a token off, as if each embedding had
    been rounded once more, and rows that see each other 4 to 5. So ``losses`` is at least ``ROUNDINGS`` times what one
    more rounding does; what is smaller, float32 alone would show.
    """

    losses: float
    features: float
    """As a share of the features' spread over all tokens that are tried; another image's are about 1 away."""


FLOAT32, BFLOAT16 = Tolerance(1e-3, 1e-2), Tolerance(5e-2, 0.25)
ROUNDINGS = 4


class Layout(StrEnum):
    """How the rows of a pass are laid out."""

    PACKED = "packed"
    PADDED = "padded"
    ALONE = "one by one"


class Seen(NamedTuple):
    """What a model makes of one row."""

    features: torch.Tensor | None
    """(image tokens, H) what the decoder reads there; None where it does not read images as tokens."""
    losses: torch.Tensor
    """(N,)"""


class Forward:
    """Forward passes without gradient, as training makes them.

    Args:
        loaded: the model.
        encoder: of its rows.
        cache: holds the features of all images; None to read pixels.
    """

    def __init__(self, loaded: Loaded, encoder: Encoder, cache: FeatureCache | None) -> None:
        self.network, self.encoder, self.cache = loaded.network, encoder, cache
        self._loaded = loaded
        self.autocast = loaded.autocast
        self.image_token = getattr(self.network.config, "image_token_id", None)
        self._embeddings: torch.Tensor | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While the block lasts, passes can be made; the model is in evaluation mode."""
        training = self.network.training
        self.network.eval()
        self._head = self._loaded.head()
        hook = decoder_of(self.network).register_forward_pre_hook(self._keep, with_kwargs=True)
        try:
            with whole_by_layer(self.network, self._loaded.device):
                yield
        finally:
            hook.remove()
            self._head.remove()
            self.network.train(training)

    @torch.no_grad()
    def __call__(self, rows: Sequence[EncodedRow], *, packed: bool = False) -> list[Seen]:
        """What the model makes of rows that share a pass.

        Raises:
            ModelError: it fails; says how.
        """
        batch = collate(rows, pad_token=self.encoder.tokenizer.pad_token_id, packed=packed).to(self.network.device)
        self._pass(lambda: model_inputs(self.network, batch, self.cache), batch.labels)
        wanted = batch.labels[:, 1:] != IGNORED
        of_loss = batch.row_of_token[:, 1:][wanted]
        images = None if self.image_token is None else batch.inputs["input_ids"] == self.image_token
        seen = []
        for number in range(len(rows)):
            features = None
            if self._embeddings is not None and images is not None:
                features = self._embeddings[images & (batch.row_of_token == number)].float()
            seen.append(Seen(features, self._head.losses.each[of_loss == number].float()))
        return seen

    @torch.no_grad()
    def losses_in(self, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> list[Seen]:
        """What the model makes of each row of a batch, by its losses alone.

        Args:
            inputs: of the model.
            labels: (B, T), ``IGNORED`` where no loss is taken.

        Raises:
            ModelError: it fails; says how.
        """
        device, kind = self.network.device, self.network.dtype
        moved = {name: one.to(device, kind if one.is_floating_point() else one.dtype) for name, one in inputs.items()}
        self._pass(lambda: moved, labels.to(device))
        return [Seen(None, losses.float()) for losses in self._head.losses.each.split(_learned(labels))]

    def _pass(self, inputs: Callable[[], Mapping[str, Any]], labels: torch.Tensor) -> None:
        """A pass; inputs are made under autocast, since a projector that is trained is float32."""
        self._embeddings, kind = None, self.network.device.type
        try:
            with torch.autocast(kind, torch.bfloat16, enabled=self.autocast), self._head.losses_at(labels):
                self.network(**inputs(), use_cache=False)
        except (MisError, torch.OutOfMemoryError):
            raise
        except FORWARD_ERRORS as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise ModelError(f"{type(error).__name__}: {first}") from error

    def _keep(self, decoder: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._embeddings = kwargs.get("inputs_embeds")


def layout_of(
    loaded: Loaded,
    encoder: Encoder,
    examples: Sequence[Example],
    lengths: Sequence[int],
    settings: TrainSettings,
    cache: FeatureCache | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Layout:
    """The first layout of ``Layout`` in which rows are what they are alone; the model is left ready for it.

    Args:
        loaded: the model.
        encoder: of its rows.
        examples: of the run.
        lengths: tokens of each example.
        settings: of the run.
        cache: holds the features of all images; None to read pixels.
        progress: gets a line for each layout that is not used, with the reason.

    Raises:
        ModelError: a row alone fails, or its loss is not that of its answer; says how.
        SettingsError: packing was asked for and changes the losses; or stored features do.
        TrainingError: the device has no room for the rows that are tried.
    """
    reason = no_packing(loaded.network)
    if settings.packing and reason is not None:
        raise SettingsError(refused_packing(reason))
    packs = settings.packing is not False and settings.attention != "eager"
    if packs and reason is not None:
        progress(UNPACKED.format(reason))
        packs = False
    chosen = [examples[at] for at in rows_to_try(examples, lengths, settings.batch_tokens)]
    try:
        found = Layout.PADDED  # of a process without weights; it takes what the others find
        if holds_weights():
            found = _tried(loaded, encoder, chosen, settings, cache, progress, packs=packs)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"expected room on the device for a pass over rows {', '.join(repr(one.sample.id) for one in chosen)}, "
            f"found: {str(error).strip().splitlines()[0]}; lower max_pixels, max_dynamic_patch or batch_tokens"
        ) from error
    found = same_for_all(found, settings.device)
    if found is Layout.PACKED:
        pack(loaded.network)
    return found


def pairs_may_share_a_pass(
    loaded: Loaded,
    encoder: Encoder,
    pairs: Sequence[tuple[Example, Example]],
    together: Callable[[Sequence[int]], tuple[Mapping[str, torch.Tensor], torch.Tensor]],
    settings: TrainSettings,
    progress: Callable[[str], None] = lambda message: None,
) -> bool:
    """Whether several pairs of answers in a pass have the losses that each answer has alone, as a pair by itself must.

    Of several processes, those that hold no weights find nothing, and have to ask the first.

    Args:
        loaded: the model.
        encoder: of its rows.
        pairs: the better and the worse answer to the same question.
        together: inputs and labels (2 B, T) of a pass over the pairs of these numbers: all better answers, then all
            worse ones.
        settings: of the run.
        progress: gets a line with the reason where they may not.

    Raises:
        ModelError: a row alone fails, a pair in a pass has other losses than its answers alone, or the labels are not
            those of the answers.
    """
    if not holds_weights():
        return False
    pairs = pairs[:PAIRS]
    lengths = [sum(len(encoder.row(each).ids) for each in pair) for pair in pairs]
    chosen = rows_to_try([better for better, _ in pairs], lengths, settings.batch_tokens)
    forward = Forward(loaded, encoder, None)
    with forward.watching():
        rows = {(at, side): encoder.row(pairs[at][side]) for side in (0, 1) for at in chosen}
        alone = {key: _alone(forward, row, settings) for key, row in rows.items()}
        tolerance = _tolerance(loaded, forward, rows[chosen[0], 0], alone[chosen[0], 0])
        for key, row in rows.items():
            _check_labels(encoder, row, pairs[key[0]][key[1]])

        def difference(numbers: Sequence[int]) -> str | None:
            keys = [(at, side) for side in (0, 1) for at in numbers]
            try:
                found = forward.losses_in(*together(numbers))
            except ModelError as error:
                return f"in one pass, the model fails ({error})"
            return _apart_in([rows[key] for key in keys], [alone[key] for key in keys], found, tolerance, "in one pass")

        for at in chosen:
            if (reason := difference([at])) is not None:
                raise ModelError(f"{settings.model}: two answers to one question cannot share a pass here: {reason}")
        reason = difference(chosen) if len(chosen) > 1 else None
    if reason is not None:
        progress(f"Each pair is a pass of its own, which is slower: {reason}")
    return reason is None


def rows_to_try(examples: Sequence[Example], lengths: Sequence[int], batch_tokens: int) -> list[int]:
    """At most ``ROWS`` examples of different images and, where there are such, of different numbers of images.

    The shortest is one of them; the others are the longest and the shortest that fit into a pass together.
    """
    by_length = sorted(range(len(examples)), key=lambda at: lengths[at])
    fitting = [at for at in by_length if ROWS * lengths[at] <= batch_tokens] or by_length[:ROWS]
    chosen = [fitting[0]]
    for others in (fitting[::-1], fitting):
        images = {name for at in chosen for name in _images(examples[at])}
        numbers = {len(examples[at].sample.images) for at in chosen}
        different = [at for at in others if at not in chosen and not images & set(_images(examples[at]))]
        other_numbers = [at for at in different if len(examples[at].sample.images) not in numbers]
        chosen += [*other_numbers, *different, *(at for at in others if at not in chosen)][:1]
    return chosen


def refused_packing(reason: str) -> str:
    """The message about packing that was asked for and cannot be."""
    return f"packing: this model's rows cannot be packed: {reason}; leave it out or set packing: false"


def _images(example: Example) -> list[tuple[str, str]]:
    return [(str(example.folder), name) for name in example.sample.images]


def _tried(
    loaded: Loaded,
    encoder: Encoder,
    chosen: Sequence[Example],
    settings: TrainSettings,
    cache: FeatureCache | None,
    progress: Callable[[str], None],
    *,
    packs: bool,
) -> Layout:
    """The layout in which the chosen rows are what they are alone."""
    rows = [encoder.row(example) for example in chosen]
    stored = rows if cache is None else [_stored(encoder, cache, example) for example in chosen]
    forward = Forward(loaded, encoder, cache)
    with forward.watching():
        alone = [_alone(forward, row, settings) for row in rows]
        if not all(seen.losses.isfinite().all() for seen in alone):
            return Layout.PADDED  # nothing to compare with; the first step names such rows
        tolerance = _tolerance(loaded, forward, rows[0], alone[0])
        for row, example in zip(rows, chosen, strict=True):
            _check_labels(encoder, row, example)
        _check_causality(forward, rows[0], alone[0], tolerance)
        if packs:
            undo = pack(loaded.network)
            try:
                reason = _difference(forward, stored, alone, tolerance, packed=True)
            finally:
                undo()
            if reason is None:
                return Layout.PACKED
            if settings.packing:
                raise SettingsError(refused_packing(reason))
            progress(UNPACKED.format(reason))
        reason = _difference(forward, stored, alone, tolerance) if len(rows) > 1 else None
        if reason is None:
            return Layout.PADDED
        if cache is not None:
            each = [_difference(forward, [row], [seen], tolerance) for row, seen in zip(stored, alone, strict=True)]
            if wrong := next((one for one in each if one is not None), None):
                raise SettingsError(f"feature_cache: {wrong}; set feature_cache: false")
    progress(f"Each row is a pass of its own, which is slower: {reason}")
    return Layout.ALONE


def _stored(encoder: Encoder, cache: FeatureCache, example: Example) -> EncodedRow:
    row = encoder.with_answer(example.sample, cache.prompt(example))
    return replace(row, features=cache.features(example))


def _alone(forward: Forward, row: EncodedRow, settings: TrainSettings) -> Seen:
    try:
        return forward([row])[0]
    except ModelError as error:
        raise ModelError(
            f"{settings.model}: expected a forward pass over row {row.id!r} alone, found {error}; "
            f"transformers {transformers.__version__} cannot run this architecture on such a row: "
            "try another version of it, or another checkpoint"
        ) from error


def _tolerance(loaded: Loaded, forward: Forward, row: EncodedRow, alone: Seen) -> Tolerance:
    if not loaded.bfloat16 and not getattr(loaded.network, "is_quantized", False):  # int8's scales are those of a pass
        return FLOAT32
    return BFLOAT16._replace(losses=max(BFLOAT16.losses, ROUNDINGS * _rounding(forward, row, alone)))


def _learned(labels: torch.Tensor) -> list[int]:
    """Labels of each row at which a loss is taken; the first position predicts none."""
    return (labels[:, 1:] != IGNORED).sum(1).tolist()


def _rounding(forward: Forward, row: EncodedRow, alone: Seen) -> float:
    """How far a row's losses move when each number of its tokens' embeddings is rounded once more in bfloat16."""
    dice = torch.Generator().manual_seed(0)
    step = torch.finfo(torch.bfloat16).eps / 2

    def shake(layer: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        noise = torch.rand(output.shape, generator=dice).to(output.device) * 2 - 1
        return (output.float() * (1 + step * noise)).to(output.dtype)

    hook = forward.network.get_input_embeddings().register_forward_hook(shake)
    try:
        return _apart(alone.losses, forward([row])[0].losses)
    finally:
        hook.remove()


def _difference(
    forward: Forward, rows: Sequence[EncodedRow], alone: Sequence[Seen], tolerance: Tolerance, *, packed: bool = False
) -> str | None:
    """How rows that share a pass differ from the same rows alone, or None if they do not."""
    together = "packed" if packed else "in one pass" if len(rows) > 1 else "with stored features"
    try:
        found = forward(rows, packed=packed)
    except ModelError as error:
        return f"{together}, the model fails ({error})"
    return _apart_in(rows, alone, found, tolerance, together)


def _apart_in(
    rows: Sequence[EncodedRow], alone: Sequence[Seen], found: Sequence[Seen], tolerance: Tolerance, together: str
) -> str | None:
    """The first row of which more was found than rounding explains, and what; or None."""
    spread = _spread([seen.features for seen in alone if seen.features is not None])
    for row, own, other in zip(rows, alone, found, strict=True):
        if own.features is not None and other.features is not None:
            share = _apart(own.features, other.features) / spread
            if not share <= tolerance.features:
                return f"{together}, row {row.id!r} has other image features than alone (they differ by {share:.1%})"
        if len(other.losses) < len(own.losses):
            return f"{together}, row {row.id!r} has {len(other.losses)} labels, alone {len(own.losses)}"
        apart = _apart(own.losses, other.losses[: len(own.losses)])  # TRL also learns what stands behind an end
        if not apart <= tolerance.losses:
            return f"{together}, row {row.id!r} has other losses than alone (they differ by {apart:.2g} a token)"
    return None


def _spread(features: Sequence[torch.Tensor]) -> float:
    """Standard deviation of image features over their tokens, or, of images of one colour, a share of their size."""
    if not any(len(one) for one in features):
        return 1.0
    every = torch.cat(list(features))
    size, spread = every.square().mean().sqrt(), (every - every.mean(0)).square().mean().sqrt()
    return float(torch.maximum(spread, 0.05 * size).clamp_min(1e-12))


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root of the mean squared difference."""
    return float((one - other).square().mean().sqrt()) if one.numel() else 0.0


def _check_labels(encoder: Encoder, row: EncodedRow, example: Example) -> None:
    """Refuse labels that do not hold the answer, but for a beginning that the template has put into the prompt."""
    decode, learned = encoder.tokenizer.decode, row.labels != IGNORED
    read = decode(encoder.tokenizer(encoder.plain(example.sample.answer or ""), add_special_tokens=False)["input_ids"])
    prompt, answer, labels = (
        without_spaces(text) for text in (decode(row.ids[: int(learned.nonzero()[0])]), read, decode(row.ids[learned]))
    )
    if answer not in labels and not any(
        prompt.endswith(answer[:at]) and labels.startswith(answer[at:]) for at in range(1, len(answer))
    ):
        raise ModelError(
            f"row {row.id!r}: expected labels that read {read[:SHOWN]!r}, found {decode(row.ids[learned])[:SHOWN]!r}; "
            "give the checkpoint a chat template that prints the answer as it is"
        )


def _check_causality(forward: Forward, row: EncodedRow, alone: Seen, tolerance: Tolerance) -> None:
    """Refuse a model that sees an answer's later tokens: it would learn to copy them."""
    answer = (row.labels != IGNORED).nonzero().flatten()
    half = len(answer) // 2
    if half == 0:
        return
    later = answer[half:]
    changed = row.ids.clone()
    changed[later] = torch.where(row.ids[later] == row.ids[answer[0]], row.ids[later - 1], row.ids[answer[0]])
    losses = forward([replace(row, ids=changed)])[0].losses
    apart = _apart(alone.losses[:half], losses[:half])
    if not apart <= tolerance.losses:
        raise ModelError(
            f"row {row.id!r}: expected losses that depend on earlier tokens only, found that later tokens of the "
            f"answer change them (by {apart:.2g} a token); this model's attention masks do not fit training here"
        )
