import pytest
import torch

from fuse.routers.router import ROUTER_TYPES, LearnableRouter, routing_query


def trained_looking(router_type, teachers=3, temperature=1.0):
    torch.manual_seed(0)
    router = LearnableRouter(8, teachers, router_type, temperature)
    torch.nn.init.normal_(router.score.weight)
    return router


@pytest.mark.parametrize("router_type", ROUTER_TYPES)
def test_weights_start_uniform_and_always_sum_to_one(router_type):
    query = torch.randn(2, 5, 8)
    fresh = LearnableRouter(hidden_dim=8, num_teachers=3, router_type=router_type)
    torch.testing.assert_close(fresh(query), torch.full((2, 5, 3), 1 / 3))
    for q in (query, query[:, 0], 1e4 * query, query.bfloat16()):
        weights = trained_looking(router_type)(q)
        assert weights.dtype == torch.float32 and weights.ge(0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(q.shape[:-1]))


@pytest.mark.parametrize("router_type", ROUTER_TYPES)
def test_unavailable_teachers_get_nothing_and_no_nan(router_type):
    router = trained_looking(router_type)
    available = torch.tensor([[True, False, True], [False, False, False]])
    query = torch.randn(2, 8, requires_grad=True)
    weights = router(query, available)
    assert weights[0, 1] == 0 and weights[0].sum().item() == pytest.approx(1)
    assert weights[1].eq(0).all()
    weights.square().sum().backward()
    assert query.grad.isfinite().all()
    plain = router(query)[0]
    torch.testing.assert_close(weights[0, 0] / weights[0, 2], plain[0] / plain[2])


def test_gates_are_independent_sigmoids_over_their_sum():
    router = trained_looking("gate")
    query = torch.randn(4, 8)
    gates = router.score(router.norm(query)).sigmoid()
    torch.testing.assert_close(router(query), gates / gates.sum(-1, keepdim=True))


def test_attention_is_the_scaled_dot_product_with_the_teachers_keys():
    router = trained_looking("attention")
    query = torch.randn(4, 8)
    q, keys = router.hidden(router.norm(query)), router.score.weight
    values = torch.eye(3)  # attending over one-hot values returns the weights
    attended = torch.nn.functional.scaled_dot_product_attention(
        q[None], keys[None], values[None]
    )
    torch.testing.assert_close(router(query), attended[0])


@pytest.mark.parametrize("router_type", ROUTER_TYPES)
def test_low_temperature_sharpens(router_type):
    query = torch.randn(16, 8)
    soft = trained_looking(router_type)(query).amax(-1)
    sharp = trained_looking(router_type, temperature=0.1)(query).amax(-1)
    assert (sharp > soft).all()


@pytest.mark.parametrize("router_type", ROUTER_TYPES)
def test_each_type_learns_to_tell_two_kinds_of_text_apart(router_type):
    torch.manual_seed(0)
    router = LearnableRouter(8, 2, router_type)
    kind = torch.arange(64) % 2
    query = torch.randn(64, 8) + 2 * torch.nn.functional.one_hot(kind, 8)
    optimizer = torch.optim.Adam(router.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        (-router(query).gather(1, kind[:, None]).log().mean()).backward()
        optimizer.step()
    assert (router(query).argmax(-1) == kind).float().mean() > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 3, "moe"), "'moe'; choose from mlp, gate, attention"),
        ((0, 3), "got 0 and 3"),
        ((8, 3, "mlp", 0.0), "temperature must be > 0"),
    ],
)
def test_a_bad_router_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LearnableRouter(*arguments)


def test_a_query_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"width 7.*hidden_dim=8"):
        LearnableRouter(8, 2)(torch.zeros(2, 7))


def test_sample_queries_average_real_tokens_only():
    hidden = torch.tensor([[[1.0], [3.0], [float("nan")]], [[5.0], [0.0], [0.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    expected = torch.tensor([[2.0], [0.0]])
    torch.testing.assert_close(routing_query(hidden, mask, "sample"), expected)
    assert routing_query(hidden, mask, "token") is hidden
    with pytest.raises(ValueError, match="'layer'; choose from sample, token"):
        routing_query(hidden, mask, "layer")
