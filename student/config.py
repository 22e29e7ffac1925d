"""Settings of the student's objective and of its training loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ENGINES = ("deepspeed", "torch")
OFFLOADS = ("none", "optimizer")
OPTIMIZERS = ("adamw", "adamw_8bit")
ROUTER_SIGNALS = ("outcome", "teacher_loss", "both")
OUTPUT_TERMS = ("kd", "hybrid_ot", "sequence_ot", "likelihood", "projected_kl")
SAME_VOCABULARY = ("kd", "sequence_ot")
"""Output objectives that compare token by token."""
DIVERGENCES = ("forward", "reverse", "jensen_shannon")
COMBINATIONS = ("losses", "distributions")
LIKELIHOOD_ENDS = ("tokens", "blanks")
LIKELIHOOD_FORMS = ("binary", "squared", "absolute")
SEQUENCE_COSTS = ("cosine", "squared", "softmax")
CONFIDENCES = ("routing", "cross_entropy", "entropy", "max_probability")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """How strongly each term pulls; a weight of 0 leaves the term out."""

    lambda_k: float = 1.0
    """Weight of the squared distance between standardised content keys."""
    lambda_v: float = 1.0
    """Weight of the squared distance between standardised values."""
    beta_cos: float = 0.1
    """Weight of 1 - cosine, over keys and values."""
    gamma_kl: float = 0.01
    """Weight of the KL from the teachers' attention to the student's, nats."""
    delta_ce: float = 1.0
    """Weight of the next-token cross-entropy, nats per token."""
    relation_k: float = 0.0
    """Weight of the K-K relation KL (MiniLMv2), which no basis can change."""
    relation_v: float = 0.0
    """Weight of the V-V relation KL."""
    temperatures: list[float] = field(default_factory=lambda: [1.0])
    """Softmax temperature of attention and relations: one for all of the student's
    layers, or one for each, > 0; higher is flatter."""
    extra: dict[str, float] = field(default_factory=dict)
    """Weights of further registered objectives, by name."""
    fade_steps: int = 0
    """Optimiser steps of a phase over which everything but the next-token loss falls
    linearly to ``fade_to`` of its weight; 0: weights stay as they are."""
    fade_to: float = 0.0
    """What is left then, in [0, 1]."""
    eta_outcome: float = 1.0
    """Weight of the outcome: the next-token loss of a second pass that reads the
    fused KV. It trains adapters, gates, routers and Z modules, never the student."""
    outcome_every: int = 4
    """Optimiser steps between two outcome passes; 0 means never."""
    outcome_layers: str = "upper"
    """Student layers that read the fused KV: ``all``, ``upper`` (the upper half),
    ``lower``, ``middle`` (all but the first and last), or numbers such as ``1,3``."""
    router_signal: str = "both"
    """What a learnable router learns from: ``outcome``, ``teacher_loss`` (each
    teacher's own bits per character, where it has one) or ``both``."""
    attention_rows: int = 16
    """Query positions per sample at which attention and relations are compared."""
    skip_sinks: int = 1
    """Leading tokens of every sample left out of K and V losses (attention sinks),
    the student's and each teacher's."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a value is out of range.
        """
        weights = (
            "lambda_k lambda_v beta_cos gamma_kl delta_ce relation_k relation_v "
            "eta_outcome skip_sinks outcome_every fade_steps"
        )
        for name in weights.split():
            _at_least(f"loss.{name}", getattr(self, name), 0)
        for name, weight in self.extra.items():
            _at_least(f"loss.extra.{name}", weight, 0)
        if not self.temperatures:
            raise ValueError("loss.temperatures is empty; give [1.0], or one a layer")
        for temperature in self.temperatures:
            _positive("an entry of loss.temperatures", temperature)
        _at_least("loss.attention_rows", self.attention_rows, 1)
        if not 0 <= self.fade_to <= 1:
            raise ValueError(f"loss.fade_to must be in [0, 1], got {self.fade_to}")
        _one_of("loss.router_signal", self.router_signal, ROUTER_SIGNALS)
        words = ("all", "upper", "lower", "middle")
        if self.outcome_layers not in words and not _numbers(self.outcome_layers):
            raise ValueError(
                f"loss.outcome_layers is {self.outcome_layers!r}; give one of "
                f"{', '.join(words)} or layer numbers such as '1,3'"
            )

    def strength(self, step: int) -> float:
        """What the weights of all terms but the next-token loss are multiplied by.

        Args:
            step: optimiser steps taken in this phase.
        """
        if not self.fade_steps:
            return 1.0
        return 1 - (1 - self.fade_to) * min(1.0, step / self.fade_steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputConfig:
    """What is learned from teachers' next-token distributions; weights of 0 leave all
    of it out. Only causal language models have such an output."""

    kd: float = 0.0
    """Weight of the divergence from teachers of the student's own vocabulary, nats per
    token, times the temperature squared."""
    hybrid_ot: float = 0.0
    """Weight of ``ot_alpha`` times the least cost of moving the student's mass on its
    likeliest tokens onto the teacher's, plus (1 - ``ot_alpha``) times the divergence
    of ``kd``; from a teacher of another vocabulary tokens are compared by their
    spelling, and the ``likelihood`` stands in for the divergence."""
    sequence_ot: float = 0.0
    """Weight of the least cost of matching the student's tokens of a text with the
    teacher's, compared as logits. Of the student's vocabulary."""
    likelihood: float = 0.0
    """Weight of the distance between the probabilities that student and teacher give
    to the same stretches of text, whatever their vocabularies, nats per stretch."""
    projected_kl: float = 0.0
    """Weight of the divergence over the pieces of text that both vocabularies have,
    where both models have read the same text; nats per place, times the temperature
    squared."""
    teachers: dict[str, list[str]] = field(default_factory=dict)
    """Objective -> teachers it learns from; one that is not named here takes every
    teacher of the phase that has a next-token output."""
    divergence: str = "forward"
    """Of ``kd``: ``forward`` KL(teacher || student), ``reverse`` KL(student ||
    teacher) or ``jensen_shannon``."""
    mix: float = 0.5
    """The teacher's share in the mean of ``jensen_shannon``, in (0, 1)."""
    temperature: float = 1.0
    """Softmax temperature of ``kd``, ``hybrid_ot`` and ``projected_kl``, > 0; higher is
    flatter."""
    temperature_rule: str = "constant"
    """A registered temperature: constant, linear, exponential, cosine, entropy,
    vocabulary, signal_to_noise, or a plugin's; from ``temperature`` towards
    ``temperature_end``."""
    temperature_end: float = 1.0
    """Where the rule leads, > 0."""
    temperature_steps: int = 1000
    """Optimiser steps of a phase in which a schedule gets there, >= 1."""
    top_k: int = 0
    """Tokens that the teacher names in ``kd``, its most probable ones, all others being
    one bucket; 0: the whole vocabulary."""
    threshold: float = 0.0
    """As ``top_k``, but naming tokens of at least this probability; in [0, 1)."""
    hard_labels: float = 0.0
    """Weight, within ``kd``, of the next-token cross-entropy; it is taken from the same
    logits, so with ``loss.delta_ce: 0`` a step has one pass through the head less."""
    label_smoothing: float = 0.0
    """Probability that ``hard_labels`` spread over the vocabulary, in [0, 1)."""
    combine: str = "losses"
    """How ``kd`` takes several teachers: a sum of ``losses``, or the mean of their
    ``distributions``, both by their weights at each token."""
    weighting: str = "routing"
    """How several teachers share a token, except in ``sequence_ot``: as the phase's
    fusion weighs them (``routing``), or by their own confidence there:
    ``cross_entropy`` (probability of the token that comes), ``entropy`` or
    ``max_probability``; across vocabularies per character of the stretch of text."""
    ot_alpha: float = 0.5
    """Share of the transport in ``hybrid_ot``, in [0, 1]."""
    ot_top_k: int = 50
    """Most tokens of each model between which mass moves, >= 1."""
    ot_adaptive: bool = False
    """Take fewer where the teacher hesitates between fewer."""
    sequence_cost: str = "cosine"
    """Of ``sequence_ot``: ``cosine``, ``squared`` or ``softmax``."""
    likelihood_form: str = "binary"
    """``binary``, ``squared`` or ``absolute`` difference of log-probabilities."""
    likelihood_temperature: float = 100.0
    """Of the binary form, > 0; the larger, the more alike likely and unlikely text
    counts."""
    likelihood_ends: str = "tokens"
    """Where the stretches of ``likelihood`` end: where ``tokens`` of both models do, or
    only before ``blanks``, with the probability that a blank follows as part of it."""
    projected_chains: bool = False
    """Whether ``projected_kl`` also tells apart the stretch of text that came, by the
    product of its tokens' probabilities."""
    block: int = 128
    """Tokens whose logits are held at once, >= 1."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a value is out of range.
        """
        for name in (*OUTPUT_TERMS, "hard_labels", "top_k"):
            _at_least(f"output.{name}", getattr(self, name), 0)
        for name in ("temperature_steps", "ot_top_k", "block"):
            _at_least(f"output.{name}", getattr(self, name), 1)
        for name in ("temperature", "temperature_end", "likelihood_temperature"):
            _positive(f"output.{name}", getattr(self, name))
        for name in ("threshold", "label_smoothing"):
            _below_one(f"output.{name}", getattr(self, name))
        _one_of("output.divergence", self.divergence, DIVERGENCES)
        _one_of("output.combine", self.combine, COMBINATIONS)
        _one_of("output.likelihood_ends", self.likelihood_ends, LIKELIHOOD_ENDS)
        _one_of("output.likelihood_form", self.likelihood_form, LIKELIHOOD_FORMS)
        _one_of("output.sequence_cost", self.sequence_cost, SEQUENCE_COSTS)
        _one_of("output.weighting", self.weighting, CONFIDENCES)
        if not 0 <= self.ot_alpha <= 1:
            raise ValueError(f"output.ot_alpha must be in [0, 1], got {self.ot_alpha}")
        if not 0 < self.mix < 1:
            raise ValueError(f"output.mix must be in (0, 1), got {self.mix}")
        if self.top_k and self.threshold:
            raise ValueError(
                f"output.top_k={self.top_k} and output.threshold={self.threshold} both "
                "limit the named tokens; set one of them to 0"
            )
        for name in self.teachers:
            _one_of("an entry of output.teachers", name, OUTPUT_TERMS)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every objective that is on."""
        found = {name: getattr(self, name) for name in OUTPUT_TERMS}
        return {name: weight for name, weight in found.items() if weight > 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank updates that are trained beside the student's frozen weights."""

    rank: int = 0
    """Width of the updates, >= 0; 0 trains the student's weights themselves."""
    alpha: float = 32.0
    """Updates are multiplied by ``alpha / rank``; > 0."""
    targets: Literal["auto"] | list[str] = "auto"
    """Layers that get one, by the ends of their names, such as ``[q_proj, v_proj]``;
    ``auto``: every linear layer but the language-model head."""
    dropout: float = 0.0
    """Share of an update's inputs that is left out in training, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a value is out of range.
        """
        _at_least("student.lora.rank", self.rank, 0)
        _positive("student.lora.alpha", self.alpha)
        _below_one("student.lora.dropout", self.dropout)
        if not self.targets:
            raise ValueError(
                "student.lora.targets is empty; give names of layers, or auto"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The loop: how long, how fast, on what."""

    steps: int | None = None
    """Optimiser steps of one phase; None: as many as ``num_epochs`` needs."""
    num_epochs: int = 1
    """Passes over the training text when ``steps`` is None."""
    batch_size: int = 8
    """Samples per device and forward pass."""
    grad_accum: int = 1
    """Forward passes per optimiser step."""
    optimizer: str = "adamw"
    """``adamw``, or ``adamw_8bit``, which holds its two moments in a byte each; needs
    the extra ``quant`` and, with DeepSpeed, ``zero_stage`` 0."""
    learning_rate: float = 1e-3
    """Peak AdamW learning rate of the student."""
    bridge_learning_rate: float = 1e-3
    """Peak learning rate of projectors, adapters and gates."""
    z_learning_rate: float | None = None
    """Peak learning rate of the latent's encoders and decoders; None: as the bridge."""
    router_learning_rate: float = 3e-3
    """Peak learning rate of routers."""
    weight_decay: float = 0.01
    """AdamW weight decay of the student's and routers' matrices; vectors and bridges
    have none."""
    warmup_steps: int = 0
    """Optimiser steps of linear warm-up at the start of each phase."""
    lr_schedule: str = "cosine"
    """``cosine`` (to a tenth), ``linear`` (to zero) or ``constant``."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are scaled down."""
    gradient_checkpointing: bool = False
    """Recompute the student's activations in the backward pass (non-reentrant)."""
    bf16: bool = False
    """Autocast matrix products to bfloat16; parameters stay float32."""
    fp16: bool = False
    """Autocast to float16 with loss scaling; needs a GPU."""
    engine: str = "deepspeed"
    """``deepspeed``, or ``torch`` for the same loop without it (one process)."""
    zero_stage: int = 1
    """DeepSpeed ZeRO stage, 0 to 3; 3 also splits the student's weights."""
    offload: str = "none"
    """``optimizer`` keeps the optimiser's state in the CPU's memory; needs a GPU and
    ZeRO 1 to 3."""
    calibration_samples: int = 64
    """Samples read before each phase to calibrate adapters and projectors."""
    log_every: int = 5
    """Optimiser steps between two metric lines."""
    checkpoint_every: int = 100
    """Optimiser steps between two resumable checkpoints within a phase; 0: only when
    asked to stop."""
    keep_checkpoints: int = 2
    """Newest checkpoints of a phase that are kept while it goes on."""
    max_bad_steps: int = 3
    """Optimiser steps in a row with a loss, gradient or teacher that is not finite
    which are skipped before the run stops."""
    prefetch: bool = True
    """Run the teachers on the next batch while the student learns from this one."""
    threads: int = 0
    """CPU threads of PyTorch; 0 leaves its own choice."""

    def __post_init__(self) -> None:
        """Check ranges and combinations.

        Raises:
            ValueError: a value is out of range, or two exclude each other.
        """
        if self.steps is not None:
            _at_least("train.steps", self.steps, 0)
        for name in ["num_epochs", "batch_size", "grad_accum", "calibration_samples"]:
            _at_least(f"train.{name}", getattr(self, name), 1)
        for name in ["log_every", "max_bad_steps", "keep_checkpoints"]:
            _at_least(f"train.{name}", getattr(self, name), 1)
        for name in ["weight_decay", "warmup_steps", "checkpoint_every", "threads"]:
            _at_least(f"train.{name}", getattr(self, name), 0)
        for name in ["learning_rate", "bridge_learning_rate", "router_learning_rate"]:
            _positive(f"train.{name}", getattr(self, name))
        if self.z_learning_rate is not None:
            _positive("train.z_learning_rate", self.z_learning_rate)
        _positive("train.max_grad_norm", self.max_grad_norm)
        _one_of("train.engine", self.engine, ENGINES)
        _one_of("train.optimizer", self.optimizer, OPTIMIZERS)
        _one_of("train.lr_schedule", self.lr_schedule, ("cosine", "linear", "constant"))
        _one_of("train.offload", self.offload, OFFLOADS)
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(
                f"train.zero_stage is {self.zero_stage}; give 0, 1, 2 or 3"
            )
        splits = self.engine == "deepspeed" and self.zero_stage > 0
        if self.offload != "none" and not splits:
            raise ValueError(
                f"train.offload={self.offload} needs train.engine=deepspeed and "
                "train.zero_stage 1, 2 or 3"
            )
        if self.optimizer == "adamw_8bit" and splits:
            raise ValueError(
                "train.optimizer=adamw_8bit scales blocks of whole parameters, which "
                f"train.zero_stage={self.zero_stage} would cut; set "
                "train.zero_stage=0, or train.optimizer=adamw, whose state ZeRO divides"
            )
        if self.fp16 and self.engine == "deepspeed" and self.zero_stage == 0:
            raise ValueError(
                "train.fp16 under DeepSpeed needs train.zero_stage 1, 2 or 3; or "
                "set train.engine=torch"
            )
        if self.bf16 and self.fp16:
            raise ValueError("train.bf16 and train.fp16 exclude each other; pick one")


def _at_least(name: str, value: float, low: float) -> None:
    if not value >= low:
        raise ValueError(f"{name} must be >= {low}, got {value}")


def _below_one(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be > 0, got {value}")


def _one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"{name} is {value!r}; give one of {', '.join(valid)}")


def _numbers(text: str) -> bool:
    return all(part.strip().isdigit() for part in text.split(","))
