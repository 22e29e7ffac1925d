"""Every point at which outside code may join in.

One hook per kind. A plugin is a module (or object) whose functions carry
``@hookimpl`` and the name of a hook; each returns what it offers, by name. Names
are lower-case words joined by ``_`` or ``-``, and are what a config says. Two
plugins claiming one name of a kind is an error that names both.

``mtkd plugins new NAME --kind KIND`` writes such a package, and
``plugins.contracts.check`` says whether what it offers keeps its promises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from align.calibration import CalibrationStats
from align.layer_map import LayerMap
from align.schedules import Rule
from align.time_align import Alignment
from align.tokens.batch import TokenBatch
from plugins.hooks.marks import hookimpl as hookimpl
from plugins.hooks.marks import hookspec as hookspec
from plugins.hooks.models import curricula as curricula
from plugins.hooks.models import evaluators as evaluators
from plugins.hooks.models import phases as phases
from plugins.hooks.models import student_makers as student_makers
from plugins.hooks.models import teacher_sources as teacher_sources
from plugins.hooks.models import transforms as transforms
from plugins.hooks.models import writers as writers
from student.balance import Balancer
from student.bridges.base import Bridge
from student.match.distance import Distance
from student.objective import Objective
from student.select.candidates import Selector

Aligner = Callable[[TokenBatch, TokenBatch], Alignment]
"""Also has a bool attribute ``causal``."""
Space = Callable[..., Bridge]
"""From sizes, and the calibration of adapters, to an uncalibrated bridge."""


@hookspec
def aligners() -> Mapping[str, Callable[[], Aligner]]:
    """Offer aligners: which teacher tokens feed which student tokens.

    A factory takes nothing and returns an object with a bool attribute ``causal``
    that maps two ``TokenBatch`` (student, teacher) of the same texts to an
    ``Alignment``. The weights of a student token sum to 1; a token without teacher
    text has no pair, and neither has padding. ``causal = True`` promises that no
    student token is fed by a teacher token that has read further than it has:
    only such an aligner may be used for injection.

    Chosen by ``align.aligner``.
    """


@hookspec
def layer_maps() -> Mapping[str, Callable[..., LayerMap]]:
    """Offer layer maps: which teacher layers feed each student layer.

    A function takes the teacher's and the student's number of layers, both at
    least 1 and in any order of size, and returns a ``LayerMap`` with one entry per
    student layer, whose weights sum to 1 over existing teacher layers.

    A map that looks at what the layers compute has an attribute ``needs_sample``
    that is True and takes a third argument, the teacher's ``LayerSimilarity``: the
    keys and values of all layers of both models on the same tokens of the
    calibration sample (``teacher``, ``student``), and their ``cka()``. It is asked
    once a phase and teacher. One with ``needs_importance``, too, finds there in
    ``importance`` by how much the teacher's own loss would move without each layer.

    Chosen by ``align.layer_mapping_strategy``.
    """


@hookspec
def adapters() -> Mapping[str, Callable[[CalibrationStats], tuple[Tensor, Tensor]]]:
    """Offer calibrations of the map from a teacher's width to the student's.

    A function takes ``CalibrationStats`` (x the teacher's features, y the
    student's) and returns in closed form ``weight`` (L, C_x, C_y) and ``bias``
    (L, C_y), finite also where channels are constant or C_x < C_y. It is never
    trained by the distance to the student: that collapses.

    Chosen by ``align.adapter``.
    """


@hookspec
def rope_scalers() -> Mapping[str, Callable[[float, int, float], float]]:
    """Offer rotary bases for longer contexts.

    A function takes ``base``, the rotary width ``dim`` and ``scale`` >= 1 (how
    many times longer the context is), and returns the new base. At scale 1 it
    returns ``base`` itself, exactly; it never falls as the scale grows.

    Chosen by ``align.rope_scaling_method``. The built-in ``linear`` and
    ``dynamic`` keep resp. follow more than a base, so the scaler knows them by
    name; registered here, they say what becomes of the base.
    """


@hookspec
def routers() -> Mapping[str, Callable[..., nn.Module]]:
    """Offer routers: from a query to one weight per teacher.

    A factory takes ``hidden_dim`` and ``num_teachers`` and returns a module
    mapping queries (..., C) of any float dtype to weights (..., M), >= 0, summing to 1
    over M. Each query is answered by itself. It learns from the outcome and teachers'
    own losses, never from the KV distance: its weights have a gradient to parameters.

    Keyword-only parameters of the factory are its options, each with a default and a
    type by which a config is checked. A factory with an attribute ``needs_sample`` that
    is True makes modules with a method ``fit``, which is given the ``RoutingSample`` of
    every phase before it begins: the student's mean hidden state of each text, and each
    teacher's bits per character. One with ``learns = False`` has nothing to train: one
    is asked for all layers, and ``fuse.temperature`` leaves its weights alone.

    A factory with an attribute ``needs``, a frozenset of ``fuse.signals.SIGNALS``
    (``entropy``: how undecided each teacher is; ``domain``: of which kind each text
    is), makes modules that have it, too, and that map queries (B, T, C) and the
    ``fuse.Signals`` of the same texts to weights (B, T, M), text by text, where a
    token's weights depend on what *earlier* tokens were told alone, for they also say
    how much a prediction of that token counts. A factory whose signals look ahead, as
    ``log_prob`` does, has ``causal = False``; one whose ``needs`` depend on its options
    a static ``needs_with(**options)``.
    Modules with ``before_reading = True`` have a method ``beforehand``, from
    ``fuse.beforehand.texts.Texts`` to the weights (B, M) of texts not yet read.
    Chosen by ``fuse.router_type`` or ``fuse.fusion_method``.
    """


@hookspec
def spaces() -> Mapping[str, Space]:
    """Offer spaces: where teachers and student meet.

    A factory takes the student's sizes, the teachers' sizes in order, and the
    calibration that ``align.adapter`` names, and returns an uncalibrated
    ``student.bridges.Bridge``, a module. It is calibrated on a sample before each phase
    (``calibrate``, in closed form), pairs the student's keys and values with targets
    (``compare``) and gives teachers in the student's dimensions for the outcome
    (``in_student_space``). ``AdapterBridge`` does the last for whoever only compares
    otherwise.

    Targets are detached: a step down the distance moves none, and none follows the
    student. What makes targets learns from the outcome, or from losses of the bridge's
    own (``auxiliary``), which leave the student alone. A token's weight in a comparison
    is 0 where all weights that were given for it are 0. What is injected is carried by
    ``view.causal`` alone, holds no bidirectional teacher, and is masked where no causal
    teacher covers. Each text is met by itself, and all that calibration finds lies in
    buffers or parameters, from which a checkpoint restores it bit for bit. What learns
    is trained at the bridge's rate. Keyword-only parameters of the factory are its
    options, each with a default and a type by which a config is checked.

    Chosen by ``fuse.space``.
    """


@hookspec
def objectives() -> Mapping[str, Callable[..., Objective]]:
    """Offer terms of the student's loss.

    A factory takes options alone and returns an object with ``needs``, a frozenset
    drawn from ``attention``, ``hidden``, ``relations`` and ``outputs`` (what must be
    captured for it; empty for none), which maps a ``StepContext`` to a finite scalar.
    Targets arrive detached and stay so: the term moves the student, nothing else. It is
    0, not NaN, where nothing is covered, and padding weighs nothing in it. What it
    remembers from step to step lies in a module's buffers, or a resumed run would not
    know it.
    ``ctx.outputs`` holds hidden states and heads, not logits: ``student.output``
    compares them without making any.

    An optimiser step is one mean over its forward passes and processes. Without more,
    the scalar is a mean over the pass and counts with the pass's share of the step's
    predicted tokens. With a method ``count``, from ``Places`` (tokens, alignments and
    weights of one pass, before the student has read) to K numbers >= 0, the scalar is
    the objective's sum over the pass divided by ``ctx.totals``, the same numbers summed
    over the step; ``ctx.total(index, weight)`` gives them, and ``weight`` where the
    pass is all there is.

    An objective that is a ``torch.nn.Module`` has its parameters trained at the
    bridge's rate, moved and saved in checkpoints; one that hides them is refused. Every
    phase builds its terms anew. Keyword-only parameters of the factory, or the fields
    of a dataclass with ``kw_only=True``, are its options, each with a default and a
    type by which a config is checked.

    With ``alone = True`` it asks no teacher and stays where there is none: it may need
    hidden states, which it reads in ``ctx.own``, and ``ctx.reread`` has the student
    read the texts once more with other input embeddings.

    Chosen by ``loss.terms.<a name>.use``; ``loss.extra.<name>`` is short for its
    weight.
    """


@hookspec
def distances() -> Mapping[str, Callable[..., Distance]]:
    """Offer distances: how far a student's features are from a teacher's.

    A factory takes options alone and returns an object that maps the student's side
    (L, B, T, C) and the teacher's (L, B, T, C'), both float32 or wider, and weights
    (L, B, T) >= 0 to what every token costs, (L, B, T), where its attribute
    ``per_token`` is True, and else to what each layer of the pass costs, (L,). With
    ``equal_widths = True`` it is only asked where C' = C. With ``rows = True`` it
    compares attention: a head's probabilities over the tokens of a text (0 on padding)
    for channels, query positions for tokens, heads for layers. ``ignores_rotation``,
    also of a projector, has features divided by one scale a layer.

    The teacher's side stands still, and no gradient goes there. Whatever the weights
    are, all 0 included, the answer is finite; what a token without weight holds changes
    no other's. Nothing it is given is changed, and nothing is remembered. The student's
    own teacher is nearer than a stranger. Keyword-only parameters of the factory are
    its options, each with a default and a type by which a config is checked.

    Chosen by ``loss.terms.<a name>.distance`` of a term that uses ``match``.
    """


@hookspec
def projectors() -> Mapping[str, Callable[..., nn.Module]]:
    """Offer projectors: from the student's features to a teacher's.

    A factory takes the student's width, the teacher's width and the number of layers,
    and returns a module that maps (L, B, T, C_s) to the width of what it is compared
    with. That is the teacher's, or what its method ``target`` makes of the teacher's
    features (L, B, T, C_t): a fixed map, to which no gradient goes, or both sides would
    shrink together. Each token is mapped by itself. What it learns, it learns from the
    distance, at the bridge's rate, and everything gets a gradient.

    With a method ``fit`` it is given statistics of the features on the calibration
    sample before the first step, ``to_teacher`` (x the student's) and ``to_student``,
    and takes useful weights in closed form, finite also where channels are constant.
    Keyword-only parameters are its options, each with a default and a type by which a
    config is checked.

    Chosen by ``loss.terms.<a name>.projector`` of a term that uses ``match``.
    """


@hookspec
def balancers() -> Mapping[str, Callable[..., Balancer]]:
    """Offer balancers: what weighs the terms of the loss against each other.

    A factory takes ``names``, a tuple of the N terms' names, and options, and returns
    what maps a ``Standing`` (the config's weights, every term's size in this pass and,
    with ``gradients`` in ``needs``, the inner products of the terms' gradients to the
    student's captured tensors, all of it summed over processes) to a ``Balanced``: N
    finite weights >= 0, by which the terms are multiplied in place of the config's.
    Both it and the factory have ``needs``, the same frozenset drawn from ``gradients``
    and ``next_token`` (a next-token loss among the terms), or none where it is empty.

    A ``torch.nn.Module`` has its parameters trained at ``train.balance_learning_rate``,
    moved and saved. It learns from the terms' sizes through the weights that it gives,
    or from a scalar of its own, ``Balanced.loss``. What it remembers lies in buffers.
    Terms may be 0 and without gradient in a pass; ``Standing.active`` says which are
    not. The same standing at the same step gets the same weights, on every process and
    in a run that goes on. Keyword-only parameters of the factory are its options, each
    with a default and a type by which a config is checked.

    Chosen by ``loss.balance``. Where one term stands alone, none is asked.
    """


@hookspec
def selectors() -> Mapping[str, Callable[..., Selector]]:
    """Offer selectors: which tokens are learned from whom.

    A factory takes ``teachers``, a tuple of M names, ``domains``, one of all texts'
    that are learned from, and options, and returns what has ``needs``, a frozenset of
    ``fuse.signals.SIGNALS``, and maps ``Candidates`` (those signals of one pass, the
    places where each teacher is known, the step) to how much each place counts: finite
    floats >= 0, (B, T), or (B, T, M) by teacher; 1 is as without it. Means are over
    what places weigh. A signal is NaN where nobody knows; what stands there says
    nothing, and is usually left at 1.

    A place's weight does not depend on which others share its pass: what the last steps
    were like is remembered by a method ``note``, which is given the candidates of every
    pass of training, adds up over processes by ``over_processes``, and changes weights
    from the next step on. A ``torch.nn.Module`` is moved and saved, and learns nothing;
    what it remembers lies in buffers. Keyword-only parameters of the factory are its
    options, each with a default and a type by which a config is checked; what moves is
    asked by ``candidates.number``.

    Chosen by ``loss.select``.
    """


@hookspec
def schedules() -> Mapping[str, Rule]:
    """Offer schedules: how a number moves while a phase trains.

    A function takes a ``Moment`` (the schedule's ``from`` and ``to``, the step, how far
    it has come) and returns one number, finite and >= 0, and > 0 between two that are.
    Keyword-only parameters of the function are its options, each with a default and a
    type by which a config is checked.

    For a temperature of next-token outputs the moment also knows the size of the
    vocabulary and, when called, the teacher's entropy at every token, the spread of
    both models' logits, how far the student's loss is above the teacher's, the
    signal-to-noise ratios of the gradients and both models' sizes; there the answer may
    be (N,), one a token. Of any number a rule marked with ``reads_losses`` may ask for
    what is left of a loss, with ``reads("loss_gap")`` and the like for means so far,
    and with ``reads("domains")`` how hard domains are for the student.

    Chosen by ``rule`` in ``{from, to, steps, rule}``, which any number may be that a
    setting's type says so of; ``output.temperature_rule`` is a short form.
    """


@hookspec
def temperatures() -> Mapping[str, Rule]:
    """Offer schedules, by the name that this hook had when they steered heat alone."""


HOOKS = (
    *(aligners, layer_maps, adapters, rope_scalers, routers, spaces),
    *(objectives, distances, projectors, balancers, selectors, schedules, temperatures),
    *(teacher_sources, student_makers, transforms, writers, evaluators),
    *(curricula, phases),
)
"""All of them, in the order in which they are listed."""
