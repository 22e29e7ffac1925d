"""Settings of the student's objective, of its updates and of its training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from align.schedules import (
    ScheduledNotNegative,
    ScheduledPositive,
    ScheduledRate,
    ScheduledShareBelowOne,
    Setting,
    is_schedule,
)
from align.schedules.setting import ScheduleOf
from align.support.field_types import (
    AtLeastOne,
    Count,
    NotNegative,
    Positive,
    PositiveOrInfinite,
    Share,
    ShareBelowOne,
    check_fields,
)
from fuse.config import choice_of
from student.select.choice import ChosenSelector, chosen_selectors, chosen_term
from student.select.choice import ChosenTerm as ChosenTerm
from student.settings.early_stop import EarlyStopConfig
from student.settings.tracking import TrackerName

EngineName = Literal["deepspeed", "torch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """How strongly each term pulls; a weight of 0 leaves the term out."""

    terms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Terms by a name of your choice, under which they are logged: ``{use: KIND,
    weight: 1.0}`` with the kind's options beside; ``use`` is the name itself where it
    is not given. An entry called as a built-in term wins over the setting that is
    short for its weight."""
    lambda_k: ScheduledNotNegative = 1.0
    """Weight of ``kv_k``, the squared distance between standardised content keys."""
    lambda_v: ScheduledNotNegative = 1.0
    """Weight of ``kv_v``, the squared distance between standardised values."""
    beta_cos: ScheduledNotNegative = 0.1
    """Weight of ``cosine``: 1 - cosine, over keys and values."""
    gamma_kl: ScheduledNotNegative = 0.01
    """Weight of ``attention_kl``, from teachers' attention to the student's, nats."""
    delta_ce: ScheduledNotNegative = 1.0
    """Weight of ``ce``, the next-token cross-entropy, nats per token."""
    smoothing: ScheduledShareBelowOne = 0.0
    """Probability that ``ce`` spreads evenly over the vocabulary, label smoothing; the
    arm by next-token loss alone does the same."""
    relation_k: ScheduledNotNegative = 0.0
    """Weight of the K-K relation KL (MiniLMv2), which no basis can change."""
    relation_v: ScheduledNotNegative = 0.0
    """Weight of the V-V relation KL."""
    temperatures: list[ScheduledPositive] = field(default_factory=lambda: [1.0])
    """Softmax temperature of attention and relations: one for all of the student's
    layers, or one for each; higher is flatter."""
    temperature_rise: ScheduledNotNegative = 0.0
    """Layer l of L is compared at ``1 + temperature_rise · l / L`` times its own."""
    extra: dict[str, ScheduledNotNegative] = field(default_factory=dict)
    """Weights of further objectives, by name; short for ``terms`` without options."""
    balance: str | dict[str, Any] = "none"
    """What weighs the terms against each other while they are trained, a registered
    balancer: ``none``, ``relative``, ``uncertainty``, ``gradnorm``,
    ``gradient_magnitude``, ``pareto``, ``conflict`` or a plugin's. With options ``{use:
    NAME, option: value}``."""
    domain_balance: ScheduledNotNegative = 0.0
    """How much more texts count of domains in which the student stays behind: a
    domain's weight is ``r^domain_balance`` over the mean of that; 0: all alike. Terms
    on teachers and the next token follow it, and so does the arm by next-token loss
    alone."""
    domain_signal: Literal["progress", "loss", "gradient", "mmd"] = "progress"
    """What r is: of ``progress``, what is left of the domain's next-token loss as a
    share of its first size; of ``loss``, that loss; of ``gradient``, how far its
    gradient points elsewhere than that of all domains, 1 less their cosine; of ``mmd``,
    how far the student's states are distributed otherwise there. The schedules' rule
    ``difficulty`` goes by the same."""
    select: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Which tokens are learned from whom, by a name of your choice, under which that is
    logged: ``{use: KIND, on: [kv, outputs]}`` with the options of a registered selector
    beside, such as ``uncertain``, ``unsure_student``, ``excess_loss``,
    ``confident_teacher`` or a plugin's; ``use`` is the name itself where it is not
    given. Weights of several multiply. Without teachers, none selects."""
    fade: ScheduledNotNegative = 1.0
    """What the weights of all terms but the next-token loss are multiplied by."""
    fade_steps: Count = 0
    """With ``fade_to`` short for ``fade: {from: 1, to: fade_to, steps: fade_steps}``;
    0: ``fade`` says it."""
    fade_to: Share = 0.0
    """What is left then."""
    eta_outcome: ScheduledNotNegative = 1.0
    """Weight of the outcome: the next-token loss of a second pass that reads the
    fused KV. It trains adapters, gates, routers and Z modules, never the student."""
    outcome_every: Count = 4
    """Optimiser steps between two outcome passes; 0 means never."""
    outcome_layers: str = "upper"
    """Student layers that read the fused KV: ``all``, ``upper`` (the upper half),
    ``lower``, ``middle`` (all but the first and last), or numbers such as ``1,3``."""
    router_signal: Literal["outcome", "teacher_loss", "both"] = "both"
    """What a learnable router learns from: ``outcome``, ``teacher_loss`` (each
    teacher's own bits per character, where it has one) or ``both``."""
    attention_rows: AtLeastOne = 16
    """Query positions per sample at which attention and relations are compared."""
    skip_sinks: Count = 1
    """Leading tokens of every sample left out of K and V losses (attention sinks),
    the student's and each teacher's."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a value that its type does not take.
        """
        check_fields(self, "loss")
        self.chosen, self.selectors  # noqa: B018  # checks
        choice_of("loss.balance", self.balance)
        if self.fade_steps and self.fade != 1:
            raise ValueError(
                f"loss.fade_steps={self.fade_steps} is short for a loss.fade, and "
                "loss.fade is given too; leave the first out"
            )
        if not self.temperatures:
            raise ValueError("loss.temperatures is empty; give [1.0], or one a layer")
        words = ("all", "upper", "lower", "middle")
        if self.outcome_layers not in words and not _numbers(self.outcome_layers):
            raise ValueError(
                f"loss.outcome_layers is {self.outcome_layers!r}; give one of "
                f"{', '.join(words)} or layer numbers such as '1,3'"
            )

    @property
    def balancer(self) -> tuple[str, dict[str, Any]]:
        """The registered balancer, and its options."""
        return choice_of("loss.balance", self.balance)

    @property
    def chosen(self) -> dict[str, ChosenTerm]:
        """The entries of ``terms``.

        Raises:
            ValueError: a name, kind or weight that cannot be used.
        """
        return {name: chosen_term(name, entry) for name, entry in self.terms.items()}

    @property
    def selectors(self) -> dict[str, ChosenSelector]:
        """The entries of ``select``.

        Raises:
            ValueError: a name, kind or place that cannot be used.
        """
        return chosen_selectors(self.select)

    @property
    def fading(self) -> Setting:
        """``fade``, or what ``fade_steps`` and ``fade_to`` are short for."""
        if not self.fade_steps:
            return self.fade
        return {"from": 1.0, "to": self.fade_to, "steps": self.fade_steps}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank updates that are trained beside the student's frozen weights."""

    rank: Count = 0
    """Width of the updates; 0 trains the student's weights themselves."""
    alpha: Positive = 32.0
    """Updates are multiplied by ``alpha / rank``."""
    targets: Literal["auto"] | list[str] = "auto"
    """Layers that get one, by the ends of their names, such as ``[q_proj, v_proj]``;
    ``auto``: every linear layer but the language-model head."""
    dropout: ShareBelowOne = 0.0
    """Share of an update's inputs that is left out in training."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a value that its type does not take.
        """
        check_fields(self, "student.lora")
        if not self.targets:
            raise ValueError(
                "student.lora.targets is empty; give names of layers, or auto"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The loop: how long, how fast, on what."""

    steps: Count | None = None
    """Optimiser steps of one phase; None: as many as ``num_epochs`` needs."""
    num_epochs: AtLeastOne = 1
    """Passes over the training text when ``steps`` is None, rounded up to a whole
    step."""
    batch_size: AtLeastOne = 8
    """Samples per device and forward pass."""
    grad_accum: AtLeastOne = 1
    """Forward passes per optimiser step."""
    batch_by: Literal["samples", "tokens"] = "samples"
    """``tokens`` deals a step's samples to its passes by length: the step learns the
    same with less padding, the more so the greater ``grad_accum`` is."""
    optimizer: Literal["adamw", "adamw_8bit", "muon"] = "adamw"
    """``adamw``; ``adamw_8bit``, which holds its two moments in a byte each and needs
    the extra ``quant``; or ``muon``: Muon for the matrices inside the student, AdamW
    for its embeddings, head and vectors and for all else. With DeepSpeed 8 bits need
    ``zero_stage`` 0, and Muon 0 or 1, where each process keeps the state of whole
    parameters and steps them for all."""
    learning_rate: ScheduledRate = 1e-3
    """Peak AdamW learning rate of the student. This or one of the other rates may be a
    schedule, which is then followed alone, without ``lr_schedule``."""
    matrix_learning_rate: ScheduledRate = 0.02
    """Peak Muon learning rate of the student's matrices, with ``optimizer: muon``."""
    bridge_learning_rate: ScheduledRate = 1e-3
    """Peak learning rate of projectors, adapters, gates and what terms learn."""
    balance_learning_rate: ScheduledRate = 0.025
    """Peak learning rate of what a balancer of the terms learns, GradNorm's own."""
    z_learning_rate: ScheduledRate | None = None
    """Peak learning rate of the latent's encoders and decoders; None: as the bridge."""
    router_learning_rate: ScheduledRate = 3e-3
    """Peak learning rate of routers."""
    weight_decay: ScheduledNotNegative = 0.01
    """Decoupled, of the student's and routers' matrices; vectors and bridges have
    none."""
    warmup_steps: Count = 0
    """Optimiser steps of linear warm-up at the start of each phase."""
    lr_schedule: (
        Literal["cosine", "linear", "constant"]
        | Annotated[dict[str, Any], ScheduleOf(NotNegative)]
    ) = "cosine"
    """Share of its peak that a learning rate is at a step: a schedule, or, after
    ``warmup_steps``, ``cosine`` (to a tenth), ``linear`` (to zero) or ``constant``."""
    max_grad_norm: PositiveOrInfinite = 1.0
    """Gradient norm above which gradients are scaled down."""
    gradient_checkpointing: bool = False
    """Recompute the student's activations in the backward pass (non-reentrant)."""
    compile: bool = False
    """Have PyTorch compile the student's blocks but for attention (``torch.compile``),
    and see beforehand that it computes the same up to rounding. Takes a minute or more
    at the start. Not with ``zero_stage: 3``, ``student.quantise`` or
    ``student.transform``."""
    bf16: bool | Literal["auto"] = False
    """Autocast matrix products to bfloat16; parameters stay float32. ``auto``: where
    all processes have hardware for it; a run that goes on stays as it began. True is
    refused by a GPU that would emulate it."""
    fp16: bool = False
    """Autocast to float16 with loss scaling; needs a GPU."""
    tf32: bool = False
    """Have a GPU (Ampere or later) compute float32 matrix products in TensorFloat-32:
    faster, with ten bits of mantissa. Other products of float32 stay as they are."""
    engine: EngineName = "deepspeed"
    """``deepspeed``, or ``torch`` for the same loop without it (one process)."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage; 3 also splits the student's weights."""
    zero_hpz_partition_size: AtLeastOne = 1
    """Processes of a group, as a rule the GPUs of a node, each of which keeps a second
    copy of the student's weights, so that the backward pass of ``zero_stage: 3`` sends
    none between nodes (ZeRO++'s hpZ). Divides the processes that train; 1: no copy."""
    offload: Literal["none", "optimizer"] = "none"
    """``optimizer`` keeps the optimiser's state in the CPU's memory; needs a GPU and
    ZeRO 1 to 3."""
    calibration_samples: AtLeastOne = 64
    """Samples read before each phase to calibrate adapters and projectors."""
    log_every: AtLeastOne = 5
    """Optimiser steps between two metric lines."""
    checkpoint_every: Count = 100
    """Optimiser steps between two resumable checkpoints within a phase; 0: only when
    asked to stop."""
    keep_checkpoints: AtLeastOne = 2
    """Newest checkpoints of a phase that are kept while it goes on."""
    max_bad_steps: AtLeastOne = 3
    """Optimiser steps in a row with a loss, gradient or teacher that is not finite
    which are skipped before the run stops."""
    trackers: list[TrackerName] = field(default_factory=list)
    """Where numbers go besides ``metrics.jsonl`` and ``tensorboard/``, by accelerate's
    names, such as ``[wandb, mlflow]``; each needs its package. One that fails costs a
    warning. Of the run, not of a phase."""
    prefetch: bool = True
    """Run the teachers on the next batch while the student learns from this one."""
    threads: Count = 0
    """CPU threads of PyTorch; 0 leaves its own choice."""
    teacher_ranks: Count = 0
    """Of the processes that the launcher starts, so many (the last) hold teachers alone
    and answer the others, which train and load no teacher of files; 0: every process
    holds all of its own. Of the run, not of a phase."""
    keep_best: str | None = None
    """A metric of what ``eval.use`` names, measured every ``eval.every`` steps: the
    phase's student is the best one by it, from which the next phase goes on, and the
    last one lies beside it in ``last/``. Null: the last one. Not with ZeRO 3."""
    early_stop: EarlyStopConfig = field(default_factory=EarlyStopConfig)
    """Ends a phase that gets no better."""

    @property
    def watched(self) -> dict[str, str]:
        """The metrics that decide within a phase, by the setting that names each."""
        stop = self.early_stop.metric
        metrics = {"keep_best": self.keep_best, "early_stop.metric": stop}
        return {name: metric for name, metric in metrics.items() if metric is not None}

    @property
    def rate_share(self) -> Mapping[str, Any]:
        """``lr_schedule``, or the three-part schedule that its curve is short for."""
        if isinstance(self.lr_schedule, Mapping):
            return self.lr_schedule
        return {
            "rule": "three_part",
            "from": 0.0,
            "peak": 1.0,
            "to": {"cosine": 0.1, "linear": 0.0, "constant": 1.0}[self.lr_schedule],
            "warmup": self.warmup_steps,
            "down": "cosine" if self.lr_schedule == "cosine" else "linear",
        }

    def __post_init__(self) -> None:
        """Check every field, and combinations.

        Raises:
            ValueError: a value that its type does not take, or two exclude each other.
        """
        check_fields(self, "train")
        if is_schedule(self.lr_schedule) and self.warmup_steps:
            raise ValueError(
                f"train.warmup_steps={self.warmup_steps} goes before a curve that "
                "train.lr_schedule names, not before a schedule; leave it out, or give "
                "{rule: three_part, from: 0, peak: 1, to: 0.1, warmup: "
                f"{self.warmup_steps}}}"
            )
        splits = self.engine == "deepspeed" and self.zero_stage > 0
        if self.offload != "none" and not splits:
            raise ValueError(
                f"train.offload={self.offload} needs train.engine=deepspeed and "
                "train.zero_stage 1, 2 or 3"
            )
        if self.zero_hpz_partition_size > 1 and not (splits and self.zero_stage == 3):
            raise ValueError(
                f"train.zero_hpz_partition_size={self.zero_hpz_partition_size} keeps a "
                "second copy of weights that train.zero_stage=3 parts, and needs "
                "train.engine=deepspeed with it; leave it out, or set zero_stage=3"
            )
        if self.compile and splits and self.zero_stage == 3:
            raise ValueError(
                "train.compile needs whole weights, and train.zero_stage=3 parts them "
                "over processes; set train.zero_stage=2 or less, or compile=false"
            )
        if self.optimizer == "adamw_8bit" and splits:
            raise ValueError(
                "train.optimizer=adamw_8bit scales blocks of whole parameters, which "
                f"train.zero_stage={self.zero_stage} would cut; set "
                "train.zero_stage=0, or train.optimizer=adamw, whose state ZeRO divides"
            )
        if self.optimizer == "muon" and splits:
            self._check_muon()
        if self.fp16 and self.engine == "deepspeed" and self.zero_stage == 0:
            raise ValueError(
                "train.fp16 under DeepSpeed needs train.zero_stage 1, 2 or 3; or "
                "set train.engine=torch"
            )
        if self.bf16 and self.fp16:
            raise ValueError("train.bf16 and train.fp16 exclude each other; pick one")

    @property
    def stage_of_deepspeed(self) -> int:
        """The ZeRO stage that DeepSpeed is told; 0 without it.

        It would lay matrices end to end, of which Muon needs each whole: Muon divides
        its state by itself, and is DeepSpeed's stage 0.
        """
        whole = self.engine != "deepspeed" or self.optimizer == "muon"
        return 0 if whole else self.zero_stage

    def _check_muon(self) -> None:
        if self.zero_stage > 1:
            raise ValueError(
                "train.optimizer=muon makes every matrix's update orthogonal as a "
                f"whole, and train.zero_stage={self.zero_stage} would cut their "
                "gradients; set train.zero_stage=1, which divides the optimiser's "
                "state by whole parameters, or train.optimizer=adamw"
            )
        alien = {"fp16": self.fp16, "offload": self.offload != "none"}
        for setting in (name for name, is_asked in alien.items() if is_asked):
            raise ValueError(
                f"train.optimizer=muon divides its state without DeepSpeed, which "
                f"alone knows train.{setting} here; leave it out, or set "
                "train.optimizer=adamw"
            )


def _numbers(text: str) -> bool:
    return all(part.strip().isdigit() for part in text.split(","))
