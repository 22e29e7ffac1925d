"""Settings of the student's objective, of its updates and of its training loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from student.ranges import at_least, below_one, one_of, positive

ENGINES = ("deepspeed", "torch")
OFFLOADS = ("none", "optimizer")
OPTIMIZERS = ("adamw", "adamw_8bit")
ROUTER_SIGNALS = ("outcome", "teacher_loss", "both")


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
            at_least(f"loss.{name}", getattr(self, name), 0)
        for name, weight in self.extra.items():
            at_least(f"loss.extra.{name}", weight, 0)
        if not self.temperatures:
            raise ValueError("loss.temperatures is empty; give [1.0], or one a layer")
        for temperature in self.temperatures:
            positive("an entry of loss.temperatures", temperature)
        at_least("loss.attention_rows", self.attention_rows, 1)
        if not 0 <= self.fade_to <= 1:
            raise ValueError(f"loss.fade_to must be in [0, 1], got {self.fade_to}")
        one_of("loss.router_signal", self.router_signal, ROUTER_SIGNALS)
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
        at_least("student.lora.rank", self.rank, 0)
        positive("student.lora.alpha", self.alpha)
        below_one("student.lora.dropout", self.dropout)
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
    """Passes over the training text when ``steps`` is None, rounded up to a whole
    step."""
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
    """Peak learning rate of projectors, adapters, gates and what terms learn."""
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
    bf16: bool | Literal["auto"] = False
    """Autocast matrix products to bfloat16; parameters stay float32. ``auto``: where
    all processes have hardware for it; a run that goes on stays as it began."""
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
            at_least("train.steps", self.steps, 0)
        for name in ["num_epochs", "batch_size", "grad_accum", "calibration_samples"]:
            at_least(f"train.{name}", getattr(self, name), 1)
        for name in ["log_every", "max_bad_steps", "keep_checkpoints"]:
            at_least(f"train.{name}", getattr(self, name), 1)
        for name in ["weight_decay", "warmup_steps", "checkpoint_every", "threads"]:
            at_least(f"train.{name}", getattr(self, name), 0)
        for name in ["learning_rate", "bridge_learning_rate", "router_learning_rate"]:
            positive(f"train.{name}", getattr(self, name))
        if self.z_learning_rate is not None:
            positive("train.z_learning_rate", self.z_learning_rate)
        positive("train.max_grad_norm", self.max_grad_norm)
        one_of("train.engine", self.engine, ENGINES)
        one_of("train.optimizer", self.optimizer, OPTIMIZERS)
        one_of("train.lr_schedule", self.lr_schedule, ("cosine", "linear", "constant"))
        one_of("train.offload", self.offload, OFFLOADS)
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
        if self.bf16 not in (True, False, "auto"):
            raise ValueError(f"train.bf16 is {self.bf16!r}; give true, false or auto")
        if self.bf16 and self.fp16:
            raise ValueError("train.bf16 and train.fp16 exclude each other; pick one")


def _numbers(text: str) -> bool:
    return all(part.strip().isdigit() for part in text.split(","))
