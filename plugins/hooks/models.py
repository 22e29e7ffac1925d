"""Hooks of what opens, makes and measures whole models, of curricula and of phases.

They are part of :mod:`plugins.hookspecs`, where all hooks are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from plugins.hooks.marks import hookspec
from student.curriculum.base import Curriculum
from student.evaluators.base import Evaluator
from student.transforms.base import StudentTransform
from teacher.making.base import StudentMaker
from teacher.sources.base import TeacherSource
from teacher.writing.ways import Way


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
