"""What a registry hands out to a run: the same thing, watched."""

import random
import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from align.errors import InputError
from align.tokenizer_align import CausalCharIoUAligner
from fuse.routers.prequential import PrequentialRouter
from fuse.routers.router import LearnableRouter
from plugins import PluginError, Registry, hookimpl
from plugins.contracts.aligner import long_batches
from plugins.contracts.beforehand import texts
from plugins.contracts.signalled import told
from plugins.contracts.step import step_context, step_places
from plugins.entry import Entry
from plugins.errors import PluginCrashError
from plugins.guards import guard
from plugins.seeds import chance
from student.objective import count_of
from student.output.temperature import Moment
from student.terms.key_value import OBJECTIVES, kv_k
from tests.plugins.broken import aligners, objectives, routers

ROOT = Path(__file__).parents[2]


class Peeking(PrequentialRouter):
    """Weighs a token by what that very token was told."""

    def forward(self, query, signals):
        return (signals.foretold * signals.ends[..., None]).nan_to_num().softmax(-1)


def test_a_router_that_is_told_things_is_watched_as_well():
    query, signals = torch.zeros(4, 9, 16), told(PrequentialRouter.needs, 3)
    router = guarded("router", PrequentialRouter)
    assert router.needs == {"foretold"} and not router.learns
    assert torch.equal(
        router(16, 3)(query, signals), PrequentialRouter(16, 3)(query, signals)
    )
    with pytest.raises(PluginError, match="told change the weights up to it"):
        guarded("router", Peeking)(16, 3)(query, signals)


def test_a_router_that_decides_before_reading_says_so_and_is_watched():
    router = guarded("router", routers.Foretells)
    assert router.before_reading and router.difficulty is None
    known = texts(router)
    plain, watched = (make(16, 3) for make in (routers.Foretells, router))
    assert torch.equal(watched.beforehand(known), plain.beforehand(known))
    wrong = guarded("router", routers.foretelling(lambda self, weights: 2 * weights))
    with pytest.raises(PluginError, match=r"acme.*do not sum to 1"):
        wrong(16, 3).beforehand(known)
    silent = guarded("router", routers.BROKEN["before_reading_in_words"])
    with pytest.raises(PluginError, match="has no method beforehand"):
        silent(16, 3)


def whose(kind):
    return Entry(
        kind=kind,
        name="it",
        value=None,
        plugin="acme",
        distribution="acme-mtkd",
        version="1.2",
    )


def guarded(kind, offered):
    return guard(whose(kind), offered)


def test_a_router_stays_the_module_it_is():
    torch.manual_seed(0)
    plain = LearnableRouter(8, 3)
    router = guarded("router", lambda hidden_dim, num_teachers: deepcopy(plain))(8, 3)
    assert isinstance(router, LearnableRouter)
    assert type(router).__name__ == "LearnableRouter"
    assert router.state_dict().keys() == plain.state_dict().keys()
    assert [n for n, _ in router.named_parameters()] == [
        n for n, _ in plain.named_parameters()
    ]
    query = torch.randn(2, 5, 8)
    assert torch.equal(router(query), plain(query))
    router.load_state_dict(plain.state_dict())
    assert router.double().eval()(query.double()).dtype == plain(query).dtype


def test_a_copy_of_a_router_is_guarded_as_well():
    copy = deepcopy(guarded("router", routers.BROKEN["negative"])(8, 3))
    with pytest.raises(PluginError, match="weights that are negative"):
        copy(torch.randn(2, 8))


class OddCall(LearnableRouter):
    def __call__(self, query):
        return super().__call__(query) * 3


def test_a_router_that_answers_past_its_forward_is_caught():
    router = guarded("router", OddCall)(8, 3)
    with pytest.raises(PluginError, match="do not sum to 1"):
        router(torch.randn(2, 8))


def test_a_crash_names_the_plugin_and_keeps_its_cause():
    aligner = guarded("aligner", aligners.BROKEN["raises"])()
    with pytest.raises(PluginCrashError) as raised:
        aligner(*long_batches()[0])
    told = "aligner 'it' of plugin 'acme' (acme-mtkd 1.2): IndexError: no such token"
    assert str(raised.value) == told
    assert isinstance(raised.value.__cause__, IndexError)
    assert raised.value.exit_code == 1
    assert (raised.value.distribution, raised.value.version) == ("acme-mtkd", "1.2")


def test_a_plugin_that_ends_the_process_is_a_crash_and_named():
    class Leaves(LearnableRouter):
        def forward(self, query):
            raise SystemExit(0)

    router = guarded("router", Leaves)(16, 3)
    with pytest.raises(PluginCrashError, match=r"acme.*SystemExit: 0"):
        router(torch.zeros(4, 9, 16))


def test_training_that_has_gone_wrong_is_not_blamed_on_the_router():
    router = guarded("router", LearnableRouter)(8, 3)
    assert router(torch.full((2, 8), torch.nan)).isnan().all()
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.fill_(torch.inf)
    assert not router(torch.randn(2, 8)).isfinite().all()


def test_training_that_has_gone_wrong_is_not_blamed_on_the_objective():
    context, student, _ = step_context()
    with torch.no_grad():
        for tensor in student:
            tensor.fill_(torch.nan)
    assert guarded("objective", objectives.GOOD)()(context).isnan()
    with pytest.raises(PluginError, match="though what it was given is finite"):
        guarded("objective", objectives.BROKEN["nan"])()(step_context()[0])


def test_an_aligner_that_fills_the_same_tensors_again_changes_no_earlier_answer():
    class Reuses:
        causal = True

        def __call__(self, student, teacher):
            self.last = CausalCharIoUAligner()(student, teacher)
            return self.last

    made = guarded("aligner", Reuses)()
    first = made(*long_batches()[0])
    before = first.weights.clone()
    made._inner.last.weights.fill_(0.5)
    assert torch.equal(first.weights, before)


def test_a_text_is_aligned_again_without_the_others_now_and_then():
    made = guarded("aligner", aligners.BROKEN["depends_on_the_batch"])()
    together = next(pair for pair in long_batches() if len(pair[0].texts) > 1)
    with pytest.raises(PluginError, match="aligns a text otherwise in another batch"):
        made(*together)
    good = guarded("aligner", CausalCharIoUAligner)()
    for _ in range(9):
        good(*together)


class ByDistance(nn.Module):
    """An objective with a parameter and a count."""

    needs = frozenset()

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def count(self, places):
        return count_of(OBJECTIVES["kv_k"]())(places)

    def forward(self, ctx):
        return self.scale * kv_k(ctx)


@pytest.mark.parametrize("made", [OBJECTIVES["kv_k"], ByDistance])
def test_an_objective_keeps_needs_count_and_parameters(made):
    context = step_context()[0]
    term, plain = guarded("objective", made)(), made()
    assert term.needs == plain.needs
    assert torch.equal(term(context), plain(context))
    places = step_places(context)
    assert count_of(term)(places) == count_of(plain)(places)
    if isinstance(plain, nn.Module):
        assert [n for n, _ in term.named_parameters()] == ["scale"]


class Fitted(ByDistance):
    """Reads the keys of the sample."""

    def fit(self, sample):
        for ctx in sample:
            ctx.comparisons[0].target_k.clone()


def test_fit_is_watched_and_what_the_sample_raises_is_not_blamed_on_the_term():
    class Spoils(Fitted):
        def fit(self, sample):
            for ctx in sample:
                ctx.comparisons[0].target_k.mul_(2)

    def broken():
        yield step_context()[0]
        raise InputError("the teacher gave nothing")

    term = guarded("objective", Fitted)()
    term.fit(step_context()[0] for _ in range(2))
    with pytest.raises(InputError, match=r"^the teacher gave nothing$") as raised:
        term.fit(broken())
    assert not isinstance(raised.value, PluginError)
    with pytest.raises(PluginError, match=r"writes to .*target_k"):
        guarded("objective", Spoils)().fit([step_context()[0]])


def test_counts_are_checked_and_what_does_not_count_has_none():
    assert count_of(guarded("objective", objectives.GOOD)()) is None

    class Negative(ByDistance):
        def count(self, places):
            return (-1.0,)

    with pytest.raises(PluginError, match=r"counts -1.0; return finite numbers"):
        count_of(guarded("objective", Negative)())(step_places(step_context()[0]))


def test_a_target_made_on_asking_is_made_anew_for_the_next_reader():
    class Spoils:
        needs = frozenset()

        def __call__(self, ctx):
            for c in ctx.comparisons:
                c.target_k.mul_(0)
            return kv_k(ctx)

    context = step_context(projected=True)[0]
    before = [c.target_k.clone() for c in step_context(projected=True)[0].comparisons]
    guarded("objective", Spoils)()(context)
    for comparison, target in zip(context.comparisons, before, strict=True):
        assert torch.equal(comparison.target_k, target)


def test_a_run_asks_for_nothing_that_is_not_guarded():
    """Fails when ``registry.get`` is called for code; phases are data."""
    bare = re.compile(r"registry\.get\(\s*\"(?!phase\")(\w+)")
    for path in (ROOT / "experiments").rglob("*.py"):
        assert not bare.findall(path.read_text(encoding="utf-8")), path


def test_get_hands_out_the_bare_thing_and_our_own_are_not_guarded():
    class Offer:
        @hookimpl
        def routers(self):
            return {"it": LearnableRouter}

    registry = Registry.load([Offer()], entry_points=False)
    assert registry.get("router", "it") is LearnableRouter
    assert registry.guarded("router", "it") is not LearnableRouter
    for entry in registry.entries():
        if entry.name != "it":
            assert registry.guarded(entry.kind, entry.name) is entry.value


class AsksForMore(nn.Module):
    """A module that says another need at every question."""

    asked = 0

    @property
    def needs(self):
        self.asked += 1
        return frozenset() if self.asked == 1 else frozenset({"attention"})

    def forward(self, ctx):
        return kv_k(ctx)


def test_what_an_objective_needs_is_asked_once():
    made = guarded("objective", AsksForMore)()
    assert [made.needs for _ in range(3)] == [frozenset()] * 3
    assert made(step_context()[0]).isfinite()


@pytest.mark.parametrize("library", [random, np.random], ids=["Python", "NumPy"])
def test_who_seeds_in_a_run_is_named(library):
    def warm(moment):
        library.seed(7)
        return moment.start

    moment = Moment(
        start=1.0,
        end=2.0,
        progress=0.0,
        vocabulary=11,
        teacher_entropy=lambda: torch.ones(3),
        signal_to_noise=lambda: (1.0, 1.0),
    )
    with chance(1), pytest.raises(PluginError, match="random seed; seed a generator"):
        guarded("schedule", warm)(moment)
