"""What a model writes, against what it should have written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from align.errors import InputError, MissingPackageError
from align.support.caches import cache_given
from align.text.prompted import Prompted
from align.tokens.pairs import target_settings
from student.evaluators.base import EvalContext, Measured, Metric, Pair, need_text
from student.evaluators.repetition import repetition

SHOWN = 3
"""Texts of every domain that are kept for the report."""
BATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """Completions, word by word and character by character, and how they repeat.

    Without pairs the held-out ones of ``data.pairs`` are asked, and where there are
    none, a text's first words are the prompt and as many as ``new_tokens`` the right
    answer. The likeliest token is taken every time, whatever a model's own generation
    settings say (beams, ``no_repeat_ngram_size``, penalties), so that models are
    compared and not settings; only what an encoder-decoder never writes, or begins
    with, stays as its files say. BLEU, chrF and TER are those
    of sacrebleu, with its defaults, over a domain as one corpus (extra ``eval``).

    Source:
        Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018. Repetition:
        the share of four-word sequences of a text that were there before, Welleck et
        al., ICLR 2020 (seq-rep-4).
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "exact_match": Metric("%", "higher"),
        "bleu": Metric("", "higher"),
        "chrf": Metric("", "higher"),
        "ter": Metric("", "lower"),
        "repetition": Metric("%", "lower"),
    }
    of_teachers: ClassVar[bool] = False

    new_tokens: int = 48
    """Most tokens that are written, and words of an answer that is cut from a text."""
    prompt_words: int = 24
    """Words of a prompt that is cut from a text."""
    texts: int = 64
    """Pairs of every domain that are asked."""
    stop: str = ""
    """What ends an answer, such as a line's end; it is left out. None if empty."""
    scores: bool = True
    """Whether sacrebleu's numbers are wanted."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            InputError: a number below 1.
        """
        for name in ("new_tokens", "prompt_words", "texts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give 1 or more")

    def __call__(self, ctx: EvalContext) -> Measured:
        """By domain."""
        pairs = self.pairs(ctx)
        notes = [] if ctx.pairs else _left_out(ctx)
        if not pairs:
            why = notes or ["generation: no text is long enough for a prompt"]
            return Measured({}, why)
        written = self.write(ctx, [pair.prompt for pair in pairs])
        values: dict[str, dict[str, float]] = {}
        samples = []
        for domain in dict.fromkeys(pair.domain for pair in pairs):
            places = [i for i, pair in enumerate(pairs) if pair.domain == domain]
            ours = [written[i] for i in places]
            right = [pairs[i].completion.strip() for i in places]
            scores = scores_of(ours, right, self.scores)
            for name, value in scores.items():
                values.setdefault(name, {})[domain] = value
            samples += [
                {
                    "domain": domain,
                    "prompt": pairs[i].prompt,
                    "written": written[i],
                    "reference": pairs[i].completion,
                }
                for i in places[:SHOWN]
            ]
        return Measured(values, notes, samples)

    def pairs(self, ctx: EvalContext) -> list[Pair]:
        """What is asked: the pairs there are, or such as are cut from text."""
        given: Sequence[Pair] = ctx.pairs or _held_out(ctx)
        if not given and not _prompted(ctx):
            need_text(ctx, "generation")
            given = list(self._cut(ctx))
        counts: dict[str, int] = {}
        chosen = []
        for pair in given:
            counts[pair.domain] = counts.get(pair.domain, 0) + 1
            if counts[pair.domain] <= self.texts:
                chosen.append(pair)
        return chosen

    def _cut(self, ctx: EvalContext) -> Iterator[Pair]:
        for sample in ctx.samples:
            ends = [word.end() for word in re.finditer(r"\S+", sample.text)]
            if len(ends) <= self.prompt_words:
                continue
            cut = ends[self.prompt_words - 1]
            end = ends[min(self.prompt_words + self.new_tokens, len(ends)) - 1]
            yield Pair(sample.text[:cut], sample.text[cut:end], sample.domain)

    def write(self, ctx: EvalContext, prompts: Sequence[str]) -> list[str]:
        """The model's answers, in the order of the prompts."""
        ordered = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        starts = range(0, len(ordered), BATCH)
        written: dict[int, str] = {}
        for start in ctx.progress(starts, len(starts), f"{ctx.subject.name} writes"):
            chunk = ordered[start : start + BATCH]
            texts = _written(ctx, [prompts[i] for i in chunk], self.new_tokens)
            written.update(zip(chunk, texts, strict=True))
        return [_until(written[i], self.stop).strip() for i in range(len(prompts))]


def _held_out(ctx: EvalContext) -> list[Pair]:
    """Held-out prompts with their completions (``data.pairs``), those that are whole.

    What was cut at ``data.max_length`` ends in mid-sentence and is no right answer.
    """
    return [
        Pair(text.prompt, text.completion, domain)
        for text, domain in _prompted(ctx)
        if not text.goes_on and text.completion.strip()
    ]


def _prompted(ctx: EvalContext) -> list[tuple[Prompted, str]]:
    """Held-out prompts with their completions, each with its domain."""
    return [
        (sample.text, sample.domain)
        for sample in ctx.samples
        if isinstance(sample.text, Prompted)
    ]


def _left_out(ctx: EvalContext) -> list[str]:
    """A sentence on pairs whose right answer is not there whole."""
    prompted = _prompted(ctx)
    cut = sum(text.goes_on for text, _ in prompted)
    if not cut:
        return []
    return [
        f"generation: {cut} of {len(prompted)} held-out pairs are cut at "
        "data.max_length, so that their right answers are not whole, and are not "
        "asked; raise data.max_length, or give whole ones in eval.pairs"
    ]


@torch.no_grad()
def _written(ctx: EvalContext, prompts: Sequence[str], most: int) -> list[str]:
    """Greedy completions of one batch, padded on the left; an encoder-decoder's
    targets, of sources padded on the right."""
    from transformers import GenerationConfig

    subject = ctx.subject
    tokenizer: Any = subject.tokenizer
    both, pad = subject.writes_targets, subject.model.config.pad_token_id
    rows = [list(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    if not both:
        rows = [_opening(row, tokenizer) for row in rows]
    if subject.max_tokens is not None and both:
        most = min(most, subject.max_tokens - 1)
        rows = [row[: subject.max_tokens] for row in rows]
    elif subject.max_tokens is not None:  # the nearest words are read
        most = min(most, subject.max_tokens // 2)
        rows = [row[-(subject.max_tokens - most) :] for row in rows]
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        first = 0 if both else width - len(row)
        ids[i, first : first + len(row)] = torch.tensor(row)
        mask[i, first : first + len(row)] = 1
    end = tokenizer.eos_token_id
    filled = pad if both and pad is not None else end
    given = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=most,
        eos_token_id=end,
        pad_token_id=filled if filled is not None else 0,
        decoder_start_token_id=subject.model.config.decoder_start_token_id
        if both
        else None,
        **(target_settings(subject.model.generation_config) if both else {}),
    )
    with _without_settings(subject.model):
        out = subject.model.generate(
            input_ids=ids.to(ctx.device),
            attention_mask=mask.to(ctx.device),
            generation_config=given,
            **cache_given(subject.model.config),
        )
    new = out[:, 1 if both else width :]
    texts: list[str] = tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


@contextmanager
def _without_settings(model: Any) -> Iterator[None]:
    """Without a model's own, by which transformers fills in what it is not given."""
    kept = model.generation_config
    model.generation_config = type(kept)()
    try:
        yield
    finally:
        model.generation_config = kept


def _opening(ids: Sequence[int], tokenizer: Any) -> list[int]:
    """A prompt's tokens without the end of text that some tokenizers put after it."""
    end = tokenizer.eos_token_id
    kept = list(ids)
    if len(kept) > 1 and kept[-1] == end:
        kept = kept[:-1]
    return kept or [end if end is not None else 0]


def _until(text: str, stop: str) -> str:
    return text.split(stop)[0] if stop and stop in text.lstrip(stop) else text


def scores_of(
    written: Sequence[str], right: Sequence[str], scores: bool = True
) -> dict[str, float]:
    """The metrics of :class:`Generation` over one corpus.

    Raises:
        MissingPackageError: sacrebleu is wanted and not installed.
    """
    same = [a == b for a, b in zip(written, right, strict=True)]
    numbers = {"exact_match": 100 * sum(same) / len(same)}
    if scores:
        sacrebleu = _sacrebleu()
        for name in ("bleu", "chrf", "ter"):
            measure = getattr(sacrebleu, f"corpus_{name}")
            numbers[name] = measure(list(written), [list(right)]).score
    repeated = [repetition(text.split()) or 0.0 for text in written]
    return numbers | {"repetition": 100 * sum(repeated) / len(repeated)}


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError as error:
        raise MissingPackageError(
            "BLEU, chrF and TER take sacrebleu, which is not installed; pip install "
            "'mtkd[eval]', or give generation the option scores: false"
        ) from error
    return sacrebleu
