import torch

from fuse.routers.label import LabelRouter
from fuse.signals import Signals
from fuse.weigher import Weigher

QUERY = torch.zeros(4, 2, 5)


def test_a_domain_is_its_teachers_and_others_are_everybodys():
    router = LabelRouter(5, 2, domains={"prose": "a", "code": "b", "maths": "c"})
    told = Signals(teachers=["a", "b"], domains=["code", "prose", "maths", "verse"])
    expected = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
    assert torch.equal(router(QUERY, told), expected[:, None].expand(-1, 2, -1))


def test_where_nobody_knows_the_domains_all_count_alike():
    router = LabelRouter(5, 2, domains={"prose": "a"})
    assert torch.equal(
        router(QUERY, Signals(teachers=["a", "b"])), torch.full((4, 2, 2), 0.5)
    )


def test_a_weigher_tells_its_router_even_when_samples_are_weighed():
    weigher = Weigher(LabelRouter(5, 2, domains={"x": "b"}), level="sample")
    assert weigher.needs == {"domain"}
    told = Signals(teachers=["a", "b"], domains=["x"] * 4)
    mask = torch.ones(4, 2, dtype=torch.bool)
    weights = weigher(QUERY, mask, torch.ones(4, 2, 2, dtype=torch.bool), told)
    assert torch.equal(weights, torch.tensor([0.0, 1.0]).expand(4, 2, 2))
