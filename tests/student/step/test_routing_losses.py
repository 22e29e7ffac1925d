"""What a router learns by, beside the outcome."""

import torch

from align.time_align import Alignment
from align.views import TeacherView
from student.step.routing_losses import routing_losses

TEXTS, TOKENS = 2, 3


def view(name, bits):
    none = torch.zeros(0, dtype=torch.int64)
    alignment = Alignment(none, none, torch.zeros(0), (TEXTS, TOKENS, TOKENS))
    return TeacherView(
        name=name, kv=None, alignment=alignment, causal=None, bits_per_char=bits
    )


def test_layers_routed_by_themselves_learn_beside_a_teacher_without_a_loss():
    """An encoder has no bits; there are more layers than texts."""
    views = [view("decoder", torch.tensor([1.0, 3.0])), view("encoder", None)]
    routing = torch.full((4, TEXTS, TOKENS, 2), 0.5, requires_grad=True)
    available = torch.ones(TEXTS, TOKENS, 2, dtype=torch.bool)
    losses = routing_losses(
        routing,
        available,
        views,
        signal="both",
        regularizer=None,
        step=0,
        share=None,
    )
    assert float(losses["teacher_loss"]) == 2.0  # of the one that has a loss
