"""A group of one gives what gloo gives among one, and listens on nothing."""

import pytest
import torch
import torch.distributed as dist

from student.loop.alone import AloneGroup, join_alone
from tests.listening import listening, needs_proc


def zeros():
    return torch.zeros(3)


def every_collective():
    """What each leaves behind."""
    given = torch.tensor([1.0, -2.0, 3.5])
    made = {}
    for reduction in (dist.ReduceOp.SUM, dist.ReduceOp.MAX):
        made[f"all_reduce {reduction}"] = given.clone()
        dist.all_reduce(made[f"all_reduce {reduction}"], op=reduction)
    for name in ("broadcast", "reduce"):
        made[name] = given.clone()
        getattr(dist, name)(made[name], 0)
    into = {
        "all_gather_into_tensor": dist.all_gather_into_tensor,
        "reduce_scatter_tensor": dist.reduce_scatter_tensor,
        "all_to_all_single": dist.all_to_all_single,
    }
    for name, collective in into.items():
        made[name] = zeros()
        collective(made[name], given)
    lists = {name: [zeros()] for name in ("all_gather", "gather")}
    dist.all_gather(lists["all_gather"], given)
    dist.gather(given, lists["gather"], dst=0)
    made |= {name: tensor for name, (tensor,) in lists.items()}
    made |= {name: zeros() for name in ("reduce_scatter", "scatter")}
    dist.reduce_scatter(made["reduce_scatter"], [given])
    dist.scatter(made["scatter"], [given], src=0)
    work = dist.all_reduce(later := given.clone(), async_op=True)
    assert work.wait()
    made["later"] = later
    dist.barrier()
    objects = [[None], [{"a": 1}], [None]]
    dist.all_gather_object(objects[0], {"of": "mine"})
    dist.broadcast_object_list(objects[1], src=0)
    dist.gather_object("mine", objects[2], dst=0)
    part = dist.new_group([0])
    dist.all_reduce(within := given.clone(), group=part)
    return made | {"within a part": within}, objects


@pytest.fixture
def no_group():
    """No process group before, and none afterwards."""
    if dist.is_initialized():
        dist.destroy_process_group()
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.edges
@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_every_collective_gives_what_gloo_gives_among_one(no_group):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    tensors, objects = every_collective()
    dist.destroy_process_group()
    join_alone()
    alone, same_objects = every_collective()
    assert same_objects == objects
    assert alone.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(alone[name], tensor, rtol=0, atol=0, msg=name)


@needs_proc
def test_it_listens_on_nothing_where_gloo_does(no_group):
    before = listening()
    join_alone()
    dist.all_reduce(torch.ones(1))
    dist.new_group([0])
    assert listening() <= before
    dist.destroy_process_group()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert listening() > before


def test_it_is_for_one_process():
    with pytest.raises(ValueError, match="one process, not 1 of 2"):
        AloneGroup(1, 2)
