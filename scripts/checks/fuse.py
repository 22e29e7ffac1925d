"""What fusing rests on: averages, routers, entropy, the latent."""

from __future__ import annotations

import math

import torch

from checks.table import check, close


@check("fuse.fuse_kv", "a teacher without text for a token does not dilute it")
def _fixed() -> str:
    from align import KV
    from fuse import fuse_kvs_fixed

    def kv(value: float, real: list[bool]) -> KV:
        x = torch.full((1, 1, 1, 2, 1), value)
        return KV(x, x, torch.tensor([real]))

    fused = fuse_kvs_fixed([kv(1.0, [True, True]), kv(5.0, [True, False])], [0.5, 0.5])
    close(fused.k.flatten(), [3.0, 1.0])
    return "(1 + 5) / 2 = 3, and 1 alone stays 1"


@check("fuse.router", "routers start without a favourite and can be taught")
def _routers() -> str:
    from fuse import LearnableRouter, fuse_kvs_learnable, fuse_kvs_similarity

    query = torch.randn(2, 5, 16)
    tensors = [torch.randn(3, 2, 5, 8) for _ in range(3)]
    for kind in ("mlp", "gate", "attention"):
        router = LearnableRouter(hidden_dim=16, num_teachers=3, router_type=kind)
        close(router(query), torch.full((2, 5, 3), 1 / 3))
        fused, _ = fuse_kvs_learnable(tensors, query, router)
        fused.square().sum().backward()
        reached = [p for p in router.parameters() if p.grad is not None]
        assert any(bool(p.grad.abs().sum() > 0) for p in reached), kind
    fused, weights = fuse_kvs_similarity(tensors, query, torch.randn(3, 16))
    assert fused.shape == tensors[0].shape
    close(weights.sum(-1), torch.ones(2, 5))
    return "mlp, gate, attention"


@check("fuse.routing_loss", "entropy: diverse rewards it, specialized forbids it")
def _entropy() -> str:
    from fuse import EntropyRegularizer

    even, sure = torch.full((4, 3), 1 / 3), torch.eye(3)
    sharp = EntropyRegularizer(target="specialized", strength=1.0)
    broad = EntropyRegularizer(target="diverse", strength=1.0)
    close(sharp.compute_loss(even), math.log(3))
    close(broad.compute_loss(even), -math.log(3))
    close(sharp.compute_loss(sure), 0.0)
    return f"log 3 = {math.log(3):.3f} nats, both signs"


@check("fuse.routing_stats", "a collapsed and an idle router raise the alarm")
def _alarm() -> str:
    from fuse import RoutingStats, routing_alarm

    kinds = []
    for weights in (torch.tensor([[0.99, 0.01]]), torch.tensor([[0.5, 0.5]])):
        stats = RoutingStats(["a", "b"])
        stats.update(weights)
        alarm = routing_alarm(stats.mean(), stats.entropy())
        assert alarm is not None, weights
        kinds.append(alarm.kind)
    assert kinds == ["collapsed", "uniform"], kinds
    return " and ".join(kinds)


@check("fuse.z_space", "a latent as wide as the model loses nothing")
def _latent() -> str:
    from align import CalibrationStats
    from fuse import ZSpace

    x = torch.randn(2, 600, 6) @ torch.randn(2, 6, 6)
    stats = CalibrationStats(2, 6, 6)
    stats.update(x, x)
    losses = []
    for z_dim in (2, 6):
        space = ZSpace([(6, 6)], (6, 6), 2, z_dim)
        space.calibrate_student(stats, stats)
        space.calibrate(0, stats, stats)
        mask = torch.ones(1, 600, dtype=torch.bool)
        loss = space.reconstruction_loss(0, x[:, None], x[:, None], mask)
        losses.append(float(loss))
    assert losses[1] < 1e-4 < losses[0], losses
    return f"lost variance: {losses[0]:.2f} at width 2, {losses[1]:.0e} at 6"
