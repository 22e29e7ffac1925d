"""Train one zoo model: first its tokenizer, then its weights."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from align.products.cpu import avoid_broken_amx, bf16_pays
from align.support.matrices import hidden_matrices
from align.support.quiet import quiet_deepspeed
from teacher.zoo.objectives import (
    IGNORE,
    Batch,
    Vocabulary,
    masked_token,
    next_token,
    span_corruption,
    windows,
)
from teacher.zoo.recipes import ZooModel, recipes
from teacher.zoo.text import DOMAINS, zoo_documents
from teacher.zoo.tokenizers import train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_global_rng = threading.Lock()  # transformers draws initial weights from it

Report = Callable[[int, int, float | None], None]


class Cancelled(Exception):
    """Another model's failure or the user stopped this training."""


def train_model(
    recipe: ZooModel, report: Report, stop: threading.Event
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Train a tokenizer and a model from a recipe.

    Args:
        recipe: what to build.
        report: called with (step, steps, loss) after every step.
        stop: raises :class:`Cancelled` at the next step once set.

    Returns:
        The model in float32 on the CPU, in evaluation mode, and its tokenizer.
    """
    texts = {domain: _training_text(recipe, domain) for domain in DOMAINS}
    tokenizer = initial_tokenizer(recipe)
    model = initial_model(recipe, tokenizer)
    if recipe.train.steps:
        batches = training_batches(recipe, tokenizer, texts)
        fit(model, recipe, batches, report, stop)
    return model.eval(), tokenizer


def initial_model(
    recipe: ZooModel, tokenizer: PreTrainedTokenizerFast
) -> PreTrainedModel:
    """Draw a recipe's initial weights; the global generator is left as it was."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
    )

    kind: dict[str, Any] = {
        "next-token": AutoModelForCausalLM,
        "masked-token": AutoModelForMaskedLM,
        "span-corruption": AutoModelForSeq2SeqLM,
    }
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if recipe.family == "t5":
        ids["decoder_start_token_id"] = tokenizer.pad_token_id
    config = AutoConfig.for_model(recipe.family, **dict(recipe.config), **ids)
    with _global_rng, torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        # On CPUs the fused attention's backward costs a third of a step.
        return kind[recipe.train.objective].from_config(
            config, dtype=torch.float32, attn_implementation="eager"
        )


def training_batches(
    recipe: ZooModel, tokenizer: PreTrainedTokenizerFast, texts: dict[str, list[str]]
) -> Iterator[Batch]:
    """Draw batches without end, each with the recipe's share of every domain."""
    train = recipe.train
    generator = torch.Generator().manual_seed(train.seed)
    vocabulary = Vocabulary.of(tokenizer)
    streams = {
        domain: windows(token_stream(tokenizer, texts[domain]), train.length, generator)
        for domain in recipe.mix
    }
    shares = torch.tensor([recipe.mix[domain] for domain in recipe.mix])
    names = list(recipe.mix)
    while True:
        domains = torch.multinomial(shares, train.batch, True, generator=generator)
        rows = torch.stack([next(streams[names[i]]) for i in domains.tolist()])
        if train.objective == "masked-token":
            yield masked_token(rows, vocabulary, generator)
        elif train.objective == "span-corruption":
            yield span_corruption(rows, vocabulary, generator)
        else:
            yield next_token(rows, vocabulary, recipe.tokenizer.style == "bos")


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Join the tokens of all texts, an eos after each: (N,) int64."""
    eos = tokenizer.eos_token_id
    encodings = tokenizer.backend_tokenizer.encode_batch(
        texts, add_special_tokens=False
    )
    return torch.tensor([i for e in encodings for i in (*e.ids, eos)])


def rate_factor(step: int, recipe: ZooModel) -> float:
    """Give the share of the peak rate: linear warm-up, then a cosine to 0.05."""
    train = recipe.train
    if step < train.warmup:
        return (step + 1) / train.warmup
    progress = (step - train.warmup) / max(1, train.steps - train.warmup)
    return 0.05 + 0.475 * (1 + math.cos(math.pi * progress))


def _optimizers(
    model: nn.Module, recipe: ZooModel
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Give Muon for the layers' matrices and AdamW for the rest, with peak rates.

    Measured: 300,000 tokens under Muon teach more than a million under AdamW.

    Source:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural
        networks"; as there, embeddings and vectors are AdamW's.
    """
    inner = hidden_matrices(model)
    weights = list(model.parameters())
    matrices = [weight for weight in weights if id(weight) in inner]
    rest = [weight for weight in weights if id(weight) not in inner]
    train = recipe.train
    muon = torch.optim.Muon(
        matrices, lr=train.matrix_rate, weight_decay=train.weight_decay
    )
    adam = torch.optim.AdamW(
        rest, lr=train.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    return [(muon, train.matrix_rate), (adam, train.learning_rate)]


def batch_loss(model: nn.Module, batch: Batch, shift: int) -> Tensor:
    """Average the loss of a batch, in float32.

    Args:
        model: gives logits (B, T, V).
        batch: input_ids and labels.
        shift: 1 where position t predicts label t + 1, else 0.
    """
    encoder_decoder = getattr(model.config, "is_encoder_decoder", False)
    extra = {"labels": batch["labels"]} if encoder_decoder else {}
    logits = model(input_ids=batch["input_ids"], **extra).logits
    logits = logits[:, : logits.shape[1] - shift].flatten(0, 1)
    labels = batch["labels"][:, shift:].flatten()
    return cross_entropy(logits.float(), labels, ignore_index=IGNORE)


def load_libraries() -> None:
    """Import what threads use: transformers' lazy imports are not thread-safe."""
    avoid_broken_amx()
    quiet_deepspeed()
    from transformers import (  # noqa: F401
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
        PreTrainedTokenizerFast,
    )

    zoo_documents("prose", "eval")  # read once rather than by every thread


def fit(
    model: nn.Module,
    recipe: ZooModel,
    batches: Iterator[Batch],
    report: Report,
    stop: threading.Event,
) -> None:
    """Train a model in place on batches, as its recipe says.

    Args:
        model: with initial weights, on the CPU.
        recipe: its steps and rates.
        batches: one a step.
        report: called with (step, steps, loss) after every step.
        stop: raises :class:`Cancelled` at the next step once set.

    Raises:
        RuntimeError: weights are no longer finite.
    """
    optimizers = _optimizers(model, recipe)
    bf16 = bf16_pays()
    shift = int(recipe.train.objective == "next-token")
    model.train()
    for step in range(recipe.train.steps):
        if stop.is_set():
            raise Cancelled(recipe.name)
        rate = rate_factor(step, recipe)
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = batch_loss(model, next(batches), shift)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        report(step + 1, recipe.train.steps, loss.item())
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise RuntimeError(f"zoo model {recipe.name!r}: weights are not finite")


def initial_tokenizer(recipe: ZooModel) -> PreTrainedTokenizerFast:
    """Train the recipe's tokenizer, or train again the one it shares."""
    owner = recipes()[recipe.tokenizer_of] if recipe.tokenizer_of else recipe
    texts = {domain: _training_text(owner, domain) for domain in DOMAINS}
    return train_tokenizer(owner.tokenizer, _mixed(owner, texts))


def _training_text(recipe: ZooModel, domain: str) -> list[str]:
    split = "student" if recipe.role == "student" else "teacher"
    budget = recipe.text_chars
    texts = []
    for _, text in zoo_documents(domain, split):
        if budget is not None:
            text = text[:budget]
            budget -= len(text)
        if text:
            texts.append(text)
    return texts


def _mixed(recipe: ZooModel, texts: dict[str, list[str]]) -> list[str]:
    """Text for the tokenizer, in the recipe's shares, 2 million characters at most."""
    room = min(
        2_000_000,
        *(sum(map(len, texts[d])) / share for d, share in recipe.mix.items() if share),
    )
    excerpts = []
    for domain, share in recipe.mix.items():
        budget = int(room * share)
        for text in texts[domain]:
            if budget > 0:
                excerpts.append(text[:budget])
                budget -= len(text)
    return excerpts
