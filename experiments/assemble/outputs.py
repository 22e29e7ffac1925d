"""Which teachers' next-token outputs a phase learns from, and the student's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from align.tokens.named_head import NamedHead
from align.views import Head, LinearHead, ModelFacts, Teacher
from experiments.assemble.selecting.selectors import selecting_needs
from experiments.config.parsing import ConfigError
from experiments.config.tree import PhaseConfig
from fuse.signals import OF_OUTPUTS, OF_STUDENT, signals_needed
from plugins.options import resolved
from plugins.registry import Registry
from student.config import ChosenTerm
from student.objective import OUTPUTS, Objective, needs_of, same_vocabulary
from student.output import Lexicon, Spelling, Vocabulary, common_pieces
from student.output_config import OUTPUT_TERMS, SAME_VOCABULARY, OutputConfig
from student.step_outputs import OutputPlan, Parameters
from student.terms.key_value import chosen_terms, short_form
from teacher.capture.kv_capture import KVCapture
from teacher.output_head import linear_head, vocabulary_digest

Teachers = Mapping[str, Teacher]


def active_objectives(phase: PhaseConfig, registry: Registry) -> dict[str, Objective]:
    """The terms of a phase with teachers, by name, to be asked what they need."""
    terms = chosen_terms(phase.loss, phase.output)
    return {name: build_term(term, registry) for name, term in terms.items()}


def build_term(term: ChosenTerm, registry: Registry) -> Objective:
    """What a config's choice of a term stands for, with its options."""
    factory = registry.entry("objective", term.kind).value
    options = resolved(factory, term.options, registry.guarded)
    objective: Objective = registry.guarded("objective", term.kind)(**options)
    return objective


def kinds_of(phase: PhaseConfig) -> list[str]:
    """The kinds of all terms that are on, each once, in order."""
    terms = chosen_terms(phase.loss, phase.output)
    return list(dict.fromkeys(term.kind for term in terms.values()))


def reading_outputs(phase: PhaseConfig, registry: Registry) -> list[str]:
    """The names of terms that need next-token outputs, a plugin's among them.

    Raises:
        InputError: a term needs what nobody can give it.
    """
    return [
        name
        for name, objective in active_objectives(phase, registry).items()
        if OUTPUTS in needs_of({name: objective})
    ]


def signals_wanted(phase: PhaseConfig, registry: Registry) -> frozenset[str]:
    """What is to be told in every pass of a phase, to all who ask together.

    Raises:
        InputError: somebody needs what nobody can give it.
    """
    router = registry.guarded("router", phase.fuse.router)
    of_router = signals_needed(router, phase.fuse.router_options)
    return of_router | selecting_needs(phase, registry)


def wants_outputs(phase: PhaseConfig, registry: Registry) -> bool:
    """Whether terms or signals are worked out of anybody's next-token outputs."""
    heard = signals_wanted(phase, registry) & (OF_OUTPUTS | OF_STUDENT)
    return bool(heard) or bool(reading_outputs(phase, registry))


def kind_of(phase: PhaseConfig, term: str) -> str:
    """The kind of a term; one that is not on is called as its kind."""
    chosen = chosen_terms(phase.loss, phase.output).get(term)
    return term if chosen is None else chosen.kind


def output_of(phase: PhaseConfig, term: str) -> OutputConfig:
    """What ``output`` is for one term: the phase's, under the term's own options."""
    chosen = chosen_terms(phase.loss, phase.output).get(term)
    if chosen is None or chosen.kind not in OUTPUT_TERMS:
        return phase.output
    return phase.output.under(chosen.kind, chosen.options)


def setting_of(phase: PhaseConfig, term: str) -> str:
    """The setting that gives a term its weight in a phase."""
    if term in phase.loss.chosen:
        return f"loss.terms.{term}.weight"
    return short_form(term)


def _place(phase: PhaseConfig, term: str, option: str = "") -> str:
    """Where a config says something of a term on outputs."""
    if term in phase.loss.chosen:
        return f"loss.terms.{term}.{option}".removesuffix(".")
    return f"output.{option}.{term}" if option else f"output.{term}"


def named_teachers(phase: PhaseConfig, term: str) -> list[str] | None:
    """The teachers whose outputs a config says a term learns from; None: all."""
    kind = kind_of(phase, term)
    if kind in OUTPUT_TERMS:
        return output_of(phase, term).teachers.get(kind)
    chosen = chosen_terms(phase.loss, phase.output).get(term)
    listed = None if chosen is None else chosen.options.get("teachers")
    return listed if isinstance(listed, list) else None


def teachers_of(
    phase: PhaseConfig, term: str, teachers: Mapping[str, ModelFacts]
) -> list[str]:
    """The teachers at hand that a term learns from, in order.

    Args:
        phase: resolved settings.
        term: by its name.
        teachers: of one arm of the phase, by name.
    """
    named = named_teachers(phase, term)
    if named is not None:
        return [name for name in teachers if name in named]
    return [name for name, teacher in teachers.items() if teacher.predicts]


def speaking(
    phase: PhaseConfig, registry: Registry, teachers: Mapping[str, ModelFacts]
) -> list[str]:
    """The teachers whose next-token outputs a phase asks for, in order: all that some
    objective learns from, or that predict where signals are worked out of that."""
    wanted = {
        name
        for objective in reading_outputs(phase, registry)
        for name in teachers_of(phase, objective, teachers)
    }
    if signals_wanted(phase, registry) & OF_OUTPUTS:
        wanted |= {name for name, teacher in teachers.items() if teacher.predicts}
    return [name for name in teachers if name in wanted]


def output_heads(
    phase: PhaseConfig, registry: Registry, teachers: Teachers
) -> dict[str, Head]:
    """The heads of those teachers."""
    return {name: teachers[name].head for name in speaking(phase, registry, teachers)}


def output_plan(
    phase: PhaseConfig,
    registry: Registry,
    student: KVCapture,
    tokenizer: Any,
    teachers: Teachers,
) -> OutputPlan | None:
    """The student's side; None where neither objectives nor signals read outputs."""
    terms = reading_outputs(phase, registry)
    if not wants_outputs(phase, registry):
        return None
    head = linear_head(student)
    names = across_vocabularies(phase, teachers, tokenizer)
    built = active_objectives(phase, registry)
    across = [name for name in terms if not same_vocabulary(built[name])]
    if any(kind_of(phase, name) not in OUTPUT_TERMS for name in across):
        names |= _spelled(phase, teachers, tokenizer)
    lexicons = _lexicons(names, head, tokenizer, teachers)
    every = {name: teacher.sizes.parameters for name, teacher in teachers.items()}
    return OutputPlan(
        head,
        digest(tokenizer),
        phase.output,
        lexicons=lexicons,
        parameters=Parameters(student.sizes.parameters, every),
    )


def _spelled(phase: PhaseConfig, teachers: Teachers, tokenizer: Any) -> dict[str, str]:
    """Teachers that a plugin's objective can compare with the student by bytes."""
    spellings = {}
    with suppress(ValueError):
        spelling(tokenizer)
        for name in teachers_of(phase, "", teachers):
            with suppress(ValueError):
                spelling(teachers[name].tokenizer)
                spellings[name] = ""
    return spellings


def _lexicons(
    names: Iterable[str], head: LinearHead, tokenizer: Any, teachers: Teachers
) -> dict[str, Lexicon]:
    """The student's vocabulary, made once, beside each one it is compared with."""
    names = list(names)
    if not names:
        return {}
    spelled, device = spelling(tokenizer), head.weight.device
    student_vocabulary = Vocabulary.of(spelled, head.size).to(device)
    lexicons = {}
    for name in names:
        theirs, size = spelling(teachers[name].tokenizer), teachers[name].head.size
        pieces = common_pieces(spelled, theirs, head.size, size).to(device)
        lexicons[name] = Lexicon(
            student_vocabulary, Vocabulary.of(theirs, size).to(device), pieces
        )
    return lexicons


def own_head(phase: PhaseConfig, student: KVCapture) -> LinearHead | None:
    """The student's head for a next-token loss without logits, None where it needs
    them: a head split between processes, or logits that are capped or scaled."""
    train = phase.train
    if train.engine == "deepspeed" and train.zero_stage == 3:
        return None
    try:
        return linear_head(student)
    except ValueError:
        return None


def across_vocabularies(
    phase: PhaseConfig, teachers: Teachers, tokenizer: Any
) -> dict[str, str]:
    """Teachers whose tokens are compared with the student's by their bytes, with the
    objective that does it."""
    across, student_digest = dict[str, str](), digest(tokenizer)
    for term in chosen_terms(phase.loss, phase.output):
        kind = kind_of(phase, term)
        if kind not in OUTPUT_TERMS or kind in SAME_VOCABULARY:
            continue
        chosen = teachers_of(phase, term, teachers)
        if kind == "hybrid_ot":
            chosen = [n for n in chosen if teachers[n].vocabulary != student_digest]
        ends = output_of(phase, term).likelihood_ends
        if kind != "likelihood" or ends != "tokens":
            across |= dict.fromkeys(chosen, term)
    return across


@lru_cache(maxsize=64)
def digest(tokenizer: Any) -> str:
    """:func:`vocabulary_digest`, worked out once a tokenizer."""
    return vocabulary_digest(tokenizer)


@lru_cache(maxsize=64)
def spelling(tokenizer: Any) -> Spelling:
    """:meth:`Spelling.of`, worked out once a tokenizer."""
    return Spelling.of(tokenizer)


def check_outputs(
    phase: PhaseConfig, registry: Registry, teachers: Teachers, tokenizer: Any
) -> None:
    """Refuse, before any work, outputs that are not there or cannot be compared.

    Args:
        phase: resolved settings.
        registry: where terms are looked up.
        teachers: the phase's own, by name.
        tokenizer: the student's.

    Raises:
        ConfigError: says which teacher and what to do.
    """
    terms = reading_outputs(phase, registry)
    if not terms:
        return
    train = phase.train
    if train.engine == "deepspeed" and train.zero_stage == 3:
        name = setting_of(phase, terms[0])
        raise ConfigError(
            f"{name} reads the student's head, which train.zero_stage=3 splits "
            f"between processes; set train.zero_stage=2, or {name}=0"
        )
    built = active_objectives(phase, registry)
    for term in terms:
        _check_teachers(phase, term, teachers)
        alike = kind_of(phase, term) in SAME_VOCABULARY or same_vocabulary(built[term])
        if alike:
            _check_vocabularies(phase, term, teachers, tokenizer)
    for name, term in across_vocabularies(phase, teachers, tokenizer).items():
        place = _place(phase, term)
        _check_spelling(place, "the student", tokenizer)
        _check_spelling(place, f"teacher {name!r}", teachers[name].tokenizer)
    output_heads(phase, registry, teachers)
    for term in terms:
        _check_kept(phase, term, teachers)


def _check_spelling(place: str, who: str, tokenizer: Any) -> None:
    try:
        spelling(tokenizer)
    except ValueError as error:
        raise ConfigError(
            f"{place} compares the bytes of tokens, and of {who}: {error}; give it no "
            "weight and learn from its keys and values, beside which output.likelihood "
            "with likelihood_ends=tokens can stand"
        ) from error


def _check_teachers(phase: PhaseConfig, term: str, teachers: Teachers) -> None:
    place = _place(phase, term, "teachers")
    for name in named_teachers(phase, term) or []:
        if name not in teachers:
            raise ConfigError(
                f"{place} names {name!r}, which the phase does not take; it takes "
                f"{', '.join(teachers)}"
            )
        if not teachers[name].predicts:
            raise ConfigError(
                f"{place} names {name!r}, which gives no next-token output: "
                f"{teachers[name].lacks[OUTPUTS]}. Leave it out there; its keys and "
                "values can be learned from all the same"
            )
    if not teachers_of(phase, term, teachers):
        why = "; ".join(f"{n}: {t.lacks[OUTPUTS]}" for n, t in teachers.items())
        setting = setting_of(phase, term)
        raise ConfigError(
            f"{setting} has no teacher with a next-token output ({why}); "
            f"add a causal language model, or set {setting}=0"
        )


def _check_kept(phase: PhaseConfig, term: str, teachers: Teachers) -> None:
    """See that a term can work from the likeliest tokens, where no more was kept."""
    kind, output = kind_of(phase, term), output_of(phase, term)
    for name in teachers_of(phase, term, teachers):
        head = teachers[name].head
        if not isinstance(head, NamedHead):
            continue
        kept = f"of teacher {name!r} the {head.top_k} likeliest tokens alone are kept"
        setting = setting_of(phase, term)
        if kind == "sequence_ot" or kind not in OUTPUT_TERMS:
            raise ConfigError(
                f"{setting} reads hidden states and a head, but {kept}; use "
                "output.kd or output.hybrid_ot, or ask the teacher live (store.read)"
            )
        if output.threshold and kind in ("kd", "hybrid_ot", "projected_kl"):
            raise ConfigError(
                f"{setting} names every token above output.threshold, but {kept}; "
                f"set output.threshold=0 and output.top_k={head.top_k}"
            )
        if kind == "hybrid_ot" and min(output.ot_top_k, head.size) > head.top_k:
            raise ConfigError(
                f"{setting} moves mass between {output.ot_top_k} tokens, but {kept}; "
                f"set output.ot_top_k={head.top_k}, or extract again with "
                f"store.top_k={output.ot_top_k}"
            )


def _check_vocabularies(
    phase: PhaseConfig, term: str, teachers: Teachers, tokenizer: Any
) -> None:
    student_digest = digest(tokenizer)
    chosen = teachers_of(phase, term, teachers)
    same = [name for name in chosen if teachers[name].vocabulary == student_digest]
    other = [name for name in chosen if name not in same]
    if not other:
        return
    advice = (
        f"set {_place(phase, term, 'teachers')}=[{', '.join(same)}]"
        if same
        else f"none has the student's: set {setting_of(phase, term)}=0"
    )
    raise ConfigError(
        f"{_place(phase, term)} compares token by token, but the vocabularies of "
        f"{', '.join(other)} are not the student's; {advice}, and learn from the "
        "others by output.projected_kl=1, which compares what two vocabularies share"
    )
