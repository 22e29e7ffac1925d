"""What our outputs across vocabularies cost beside TRL's GOLD, which needs ``trl``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from align.tokens.batch import TokenBatch, encode_batch
from align.views import LinearHead, Output
from experiments.bench.measure import Bar, paired_ratio, seconds
from experiments.bench.quality.peers.terms import TrlGold
from student.objective import StepContext
from student.output import Lexicon, Spelling, Vocabulary, common_pieces
from student.output_config import OutputConfig
from student.step_outputs import Outputs, Taught
from student.terms.next_token import projected_kl
from teacher.loading.models import LoadedModel, load_model
from teacher.zoo import zoo_samples

STUDENT, TEACHER = "zoo:student", "zoo:qwen-code"
TEXTS, LENGTH = 8, 128
"""Half of them prose, half code; the most tokens of one."""
WIDTHS = {STUDENT: 96, TEACHER: 128}
"""Of the hidden states, which are drawn: a loss does not ask what they say."""


def bars(rounds: int = 7) -> list[Bar]:
    """One forward and backward of the loss alone, ours against theirs.

    Args:
        rounds: pairs of each ratio.

    Raises:
        InputError: ``trl`` is not installed, or a zoo model is not built.
    """
    context, leaves = step()
    gold = {
        "GOLD": TrlGold(),
        "GOLD, bayesian and hybrid": TrlGold(
            merge="bayesian", hybrid=True, tokenizers=[STUDENT, TEACHER]
        ),
    }

    def work(term: Callable[[StepContext], Any]) -> Callable[[], None]:
        def run() -> None:
            for leaf in leaves:
                leaf.grad = None
            term(context).backward()

        return run

    ours = work(projected_kl)
    kept = []
    for name, term in gold.items():
        theirs = work(term)
        ratio = paired_ratio(ours, theirs, rounds)
        times = ", ".join(f"{1e3 * seconds(call):.0f} ms" for call in (ours, theirs))
        print(f"projected_kl and {name}, once each: {times}")
        kept.append(Bar(f"projected_kl / {name}", ratio, 1))
    return kept


def step() -> tuple[StepContext, list[torch.Tensor]]:
    """What a step knows of both models' outputs, and tensors that have gradients."""
    models = {name: load_model(name) for name in (STUDENT, TEACHER)}
    texts = [
        sample.text
        for domain in ("prose", "code")
        for sample in zoo_samples(domain, "student")[: TEXTS // 2]
    ]
    torch.manual_seed(0)
    outputs: dict[str, Output] = {}
    spelt, sizes = {}, {}
    for name, model in models.items():
        batch = encode_batch(model.tokenizer, texts, max_length=LENGTH)
        spelt[name], sizes[name] = Spelling.of(model.tokenizer), _vocabulary(model)
        outputs[name] = _drawn(batch, WIDTHS[name], sizes[name], name)
    student, teacher = outputs[STUDENT], outputs[TEACHER]
    lexicon = Lexicon(
        Vocabulary.of(spelt[STUDENT], sizes[STUDENT]),
        Vocabulary.of(spelt[TEACHER], sizes[TEACHER]),
        common_pieces(spelt[STUDENT], spelt[TEACHER], *sizes.values()),
    )
    batch = student.tokens
    both = Outputs(
        student=student,
        teachers=[Taught(TEACHER, teacher, batch.has_text.float())],
        config=OutputConfig(),
        lexicons={TEACHER: lexicon},
    )
    print(
        f"{TEXTS} texts: {batch.ids.numel()} tokens of {sizes[STUDENT]} and "
        f"{teacher.tokens.ids.numel()} of {sizes[TEACHER]}, padding and all"
    )
    leaves = [student.hidden, student.matrix.weight]
    for leaf in leaves:
        leaf.requires_grad_()
    return StepContext(batch, torch.zeros(1), outputs=both), leaves


def _vocabulary(model: LoadedModel) -> int:
    return int(model.model.config.vocab_size)


def _drawn(batch: TokenBatch, width: int, vocabulary: int, name: str) -> Output:
    head = LinearHead(0.1 * torch.randn(vocabulary, width))
    return Output(batch, torch.randn(*batch.ids.shape, width), head, name)
