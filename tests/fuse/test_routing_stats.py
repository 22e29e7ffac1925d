import math

import pytest
import torch

from align.tokens.batch import TokenBatch
from fuse.routing_stats import RoutingStats, routing_alarm, routing_entropy


def test_entropy_by_hand():
    weights = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75], [0.0, 0.0]])
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    expected = torch.tensor([math.log(2), 0.0, quarter, 0.0])
    torch.testing.assert_close(routing_entropy(weights), expected)


def test_entropy_has_a_finite_gradient_at_the_corners():
    weights = torch.tensor([[1.0, 0.0]], requires_grad=True)
    routing_entropy(weights).sum().backward()
    assert weights.grad.isfinite().all()


def test_means_per_teacher_domain_and_layer_by_hand():
    stats = RoutingStats(teachers=["a", "b"])
    weights = torch.zeros(2, 2, 3, 2)  # (L, B, T, M)
    weights[0, 0] = torch.tensor([1.0, 0.0])
    weights[1, 0] = torch.tensor([0.5, 0.5])
    weights[:, 1] = torch.tensor([0.2, 0.8])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    stats.update(weights, ["prose", "code"], mask)
    assert stats.count == 8  # two layers x four tokens
    domains = stats.by_domain()
    assert domains["prose"] == pytest.approx({"a": 0.75, "b": 0.25})
    assert domains["code"] == pytest.approx({"a": 0.2, "b": 0.8})
    assert stats.by_layer()[0] == pytest.approx({"a": 3.2 / 4, "b": 0.8 / 4})
    assert stats.by_layer()[1] == pytest.approx({"a": 1.7 / 4, "b": 2.3 / 4})
    assert stats.mean() == pytest.approx({"a": 4.9 / 8, "b": 3.1 / 8})


def test_confusion_counts_which_teacher_led():
    stats = RoutingStats(teachers=["a", "b"])
    stats.update(torch.tensor([[0.6, 0.4], [0.1, 0.9]]), ["prose", "prose"])
    stats.update(torch.tensor([[0.3, 0.7]]), ["code"])
    assert stats.confusion()["prose"] == pytest.approx({"a": 0.5, "b": 0.5})
    assert stats.confusion()["code"] == pytest.approx({"a": 0.0, "b": 1.0})


def test_rows_without_teachers_are_not_counted():
    stats = RoutingStats(teachers=["a", "b"])
    stats.update(torch.tensor([[[0.5, 0.5], [0.0, 0.0]]]))
    assert stats.count == 1
    assert stats.entropy() == pytest.approx(math.log(2))
    assert math.isnan(RoutingStats(teachers=["a"]).entropy())
    assert math.isnan(RoutingStats(teachers=["a"]).mean()["a"])


def alarm_of(stats):
    return routing_alarm(stats.mean(), stats.entropy(), stats.by_domain())


def test_alarm_on_collapse_names_the_teacher():
    stats = RoutingStats(teachers=["gpt2", "qwen"])
    assert alarm_of(stats) is None  # nothing seen yet
    stats.update(torch.tensor([[0.99, 0.01]] * 4), ["prose", "prose", "code", "code"])
    alarm = alarm_of(stats)
    assert alarm.kind == "collapsed"
    assert "'gpt2' takes 99.0% of the weight over 2 domains" in alarm.message


def test_alarm_on_uniformity_but_not_on_healthy_or_single_routing():
    stats = RoutingStats(teachers=["a", "b"])
    stats.update(torch.tensor([[0.5, 0.5], [0.51, 0.49]]))
    assert alarm_of(stats).kind == "uniform"
    # each text chooses sharply, the choices balance: exactly what is wanted
    healthy = RoutingStats(teachers=["a", "b"])
    healthy.update(torch.tensor([[0.95, 0.05], [0.05, 0.95]]))
    assert alarm_of(healthy) is None
    single = RoutingStats(teachers=["a"])
    single.update(torch.ones(3, 1))
    assert alarm_of(single) is None
    assert routing_alarm({"a": 0.6, "b": 0.4}, entropy=0.5) is None


def test_alarms_take_other_thresholds():
    mean, entropy = {"a": 0.9, "b": 0.1}, 0.3
    assert routing_alarm(mean, entropy) is None
    assert routing_alarm(mean, entropy, collapse_share=0.8).kind == "collapsed"
    assert routing_alarm(mean, entropy, uniform_entropy=0.4).kind == "uniform"


def test_misfits_are_refused():
    stats = RoutingStats(teachers=["a", "b"])
    with pytest.raises(ValueError, match=r"\(2, 3\).*M = 2 teachers"):
        stats.update(torch.ones(2, 3))
    with pytest.raises(ValueError, match="1 domains for a batch of 2"):
        stats.update(torch.ones(2, 2), ["prose"])


def test_what_tokens_hold_and_a_text_with_its_leaders_are_kept():
    spans = torch.tensor([[[0, 0], [0, 2], [2, 4], [4, 5]]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    batch = TokenBatch(mask.long(), mask, spans, ("ab12.",))
    weights = torch.tensor([[[0.0, 0.0], [0.75, 0.25], [0.0, 1.0], [0.0, 0.0]]])
    stats = RoutingStats(teachers=["a", "b"])
    stats.note(weights, batch, ["x"])
    line = stats.line()
    assert line["weights"] == stats.by_domain() and "layers" not in line
    # nobody covers the full stop
    assert line["kinds"] == {"word": {"a": 0.75, "b": 0.25}, "number": {"a": 0, "b": 1}}
    sample = line["sample"]
    assert sample["text"] == "ab12." and sample["domain"] == "x"
    assert sample["starts"] == [0, 2, 4] and sample["ends"] == [2, 4, 5]
    assert sample["teachers"][:2] == [0, 1] and sample["weights"] == [0.75, 1, 0]


def test_a_teacher_that_starves_is_named():
    mean = {"a": 0.6, "b": 0.395, "c": 0.005}
    alarm = routing_alarm(mean, 0.5, starved_share=0.01)
    assert alarm.kind == "starved" and "starves 'c', which has 0.5%" in alarm.message
    assert routing_alarm(mean, 0.5) is None


def test_a_router_that_knows_nothing_is_seen_though_one_teacher_is_chosen():
    soft = torch.full((1, 4, 2), 0.5)
    hard = torch.eye(2)[torch.tensor([[0, 1, 1, 0]])]
    stats = RoutingStats(teachers=["a", "b"])
    stats.update(hard, soft=soft)
    assert stats.entropy() == pytest.approx(math.log(2))
    assert routing_alarm(stats.mean(), stats.entropy()).kind == "uniform"
    stats.update(hard, soft=hard)
    assert stats.entropy() == pytest.approx(math.log(2) / 2)
