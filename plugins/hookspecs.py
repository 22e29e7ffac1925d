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
from typing import Any

import pluggy
from torch import Tensor, nn

from align.calibration import CalibrationStats
from align.layer_map import LayerMap
from align.schedules import Rule
from align.time_align import Alignment
from align.tokens.batch import TokenBatch
from plugins.entry import PROJECT
from student.balance import Balancer
from student.bridges.base import Bridge
from student.curriculum.base import Curriculum
from student.evaluators.base import Evaluator
from student.match.distance import Distance
from student.objective import Objective
from student.transforms.base import StudentTransform
from teacher.making.base import StudentMaker
from teacher.sources.base import TeacherSource
from teacher.writing.ways import Way

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

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
    what is left of a loss, with ``reads("loss_gap")`` and the like for means so far.

    Chosen by ``rule`` in ``{from, to, steps, rule}``, which any number may be that a
    setting's type says so of; ``output.temperature_rule`` is a short form.
    """


@hookspec
def temperatures() -> Mapping[str, Rule]:
    """Offer schedules, by the name that this hook had when they steered heat alone."""


@hookspec
def teacher_sources() -> Mapping[str, Callable[..., TeacherSource]]:
    """Offer sources of teachers: what a prefix of ``teachers.NAME.model`` stands for.

    A factory takes what stands behind the prefix, a text, and returns a
    ``teacher.sources.TeacherSource``; it refuses with ``align.errors.InputError`` what
    cannot be meant, and looks at nothing else yet. ``open`` makes the teacher, an
    ``align.views.Teacher``, before any work, from what an ``Opening`` gives: models
    from files, or the student. With ``begin`` it makes another for each phase.

    The source says what its teachers give at most (``gives``; the rest stands in their
    ``lacks``), what asking costs (``cost``), which model's ``config.json`` tells their
    sizes (``like``), and by ``fingerprint`` what tells them from others under the same
    name. One that ``moves`` is asked in the step that learns from the answer, and moved
    by ``after_step``; what it remembers lies in its teacher's model. The same name and
    options give the same teacher. With an attribute ``bare`` that is True the prefix
    may stand alone. Keyword-only parameters of the factory are its options, each with a
    default and a type by which a config is checked. A prefix has no ``:``.

    Chosen by ``teachers.<a name>.model``; options are ``teachers.<a name>.options``.
    """


@hookspec
def student_makers() -> Mapping[str, Callable[..., StudentMaker]]:
    """Offer makers of students: what a larger model is cut down to.

    A factory takes options alone and returns a ``teacher.making.StudentMaker``, an
    object with a bool attribute ``needs_sample`` that maps a causal model of
    transformers, and a ``Sample`` of its tokens where that is True, to a ``Made``: a
    causal model of a type that transformers knows, and for each of its layers the
    number of the source's layer that it was. It refuses with
    ``align.errors.InputError`` what cannot be made of a model.

    The source stays as it is and shares no memory with the student. The same model and
    sample give the same student, whose weights and ``config.json`` are all that plain
    transformers needs to load it. Keyword-only parameters of the factory are its
    options, each with a default and a type by which a config is checked.

    Chosen by ``student.make`` and ``mtkd make --use``.
    """


@hookspec
def transforms() -> Mapping[str, Callable[..., StudentTransform]]:
    """Offer transforms: what a student computes by while it trains.

    A factory takes options alone and returns a ``student.transforms.StudentTransform``:
    ``attach`` puts it on a model, ``at`` says how strong it is. At strength 0 no bit of
    any answer changes; gradients reach all that they did. What it learns or remembers
    lies in parameters and buffers. Keyword-only parameters are its options, each with a
    default and a type. Chosen by ``student.transform`` or ``phase.NAME.transform``.
    """


@hookspec
def writers() -> Mapping[str, Callable[..., Way]]:
    """Offer ways of writing: how a model chooses what it writes after an opening.

    A factory takes options alone and returns an object with ``by_likelihood``, a bool:
    whether the texts of one opening weigh by what the model gives them, or alike. Its
    method ``fields`` returns what it sets of transformers' ``GenerationConfig``, by
    name, ``num_return_sequences`` among them where there are several candidates; it may
    set neither lengths nor special tokens, which are the caller's. Its method
    ``chosen`` takes the candidates of one opening as texts, equal ones perhaps among
    them, and returns the places of those that are kept, at least one, none twice.

    All that is drawn is drawn by PyTorch while the model writes; ``chosen`` draws
    nothing, or a corpus would not be the same when it is written again. Keyword-only
    parameters of the factory, or the fields of a dataclass with ``kw_only=True``, are
    its options, each with a default and a type by which a config is checked.

    Chosen by ``data.written.writer`` and by ``mtkd write --writer``.
    """


@hookspec
def evaluators() -> Mapping[str, Callable[..., Evaluator]]:
    """Offer evaluators: what a model is measured by.

    A factory takes options alone and returns a ``student.evaluators.Evaluator``, an
    object with ``metrics``, a ``Metric`` (its unit, and whether lower or higher is
    better) by the name of each, and a bool ``of_teachers``. It maps an ``EvalContext``
    (a model with its tokenizer, teachers where there are any, held-out text, pairs of
    question and answer) to a ``Measured``: finite numbers by metric and part. A part is
    a domain, a teacher, a batch size, or ``WHOLE`` where there is one number.

    What cannot be measured of this model, or without teachers, is left out and said in
    ``notes``. Models stay as they are, in evaluation mode, and so do the seeds of the
    process. With ``of_teachers = True`` it is asked once, of the teachers as a set.
    Names of metrics are its own: two evaluators of a run share none. Keyword-only
    parameters of the factory are its options, each with a default and a type by which a
    config is checked.

    Chosen by ``eval.use`` and ``mtkd eval --use``.
    """


@hookspec
def curricula() -> Mapping[str, Callable[..., Curriculum]]:
    """Offer curricula: in which order, and how often, a phase reads its texts.

    A factory takes options alone and returns an object that maps the ``Scores`` of all
    N training texts (columns such as their length, or what student and teachers need
    for them, NaN where nobody knows) and a ``Draw`` (seed, how many texts of the phase
    come before, how many are asked for, how far it has come) to the numbers of these
    texts, a sequence of ``draw.size`` ints in [0, N). It is asked once an optimiser
    step, and has ``needs``, the frozenset of columns that it reads, drawn from
    ``student.curriculum.COLUMNS``; they are measured before a phase begins.

    The answer follows from scores and draw alone: arms of a run are compared on the
    same texts, processes share them, and a run that goes on must read on. So nothing is
    drawn but from ``draw.seed`` and ``draw.first``, and nothing remembered that would
    change it. No text is left out for ever, unless ``leaves_out = True`` says so.
    ``student.curriculum.groups.GroupDraws`` draws from groups by shares that move.
    Keyword-only parameters of the factory are its options, each with a default and a
    type by which a config is checked.

    Chosen by ``data.curriculum``; with ``rescore`` beside the options its scores are
    measured again while the phase goes on.
    """


@hookspec
def phases() -> Mapping[str, Mapping[str, Any]]:
    """Offer phases: partial configs that a run goes through in turn.

    A phase is a mapping from sections (``title``, ``teachers``, ``align``,
    ``fuse``, ``loss``, ``output``, ``train``) to settings. It is data, checked like a
    config file; the user's own ``phase.<name>`` overrides it.

    Chosen by ``phases``.
    """
