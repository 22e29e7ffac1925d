"""Muon for the matrices inside the student, AdamW for all else, as one optimiser."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from align.support.matrices import Layout

MATRICES = "muon"
"""Key of a parameter group: True where Muon is to step it."""

LAYOUTS = "layouts"
"""Key of such a group: a :class:`Layout` for each of its parameters."""

MOMENTUM = "momentum_buffer"
"""What Muon keeps of a matrix, as PyTorch calls it; in the parameter's own shape."""


class MuonAdamW(torch.optim.Optimizer):
    """Steps groups marked :data:`MATRICES` by Muon, and the others by AdamW.

    Both are PyTorch's own. They share this optimiser's groups, so that a learning rate
    set here is theirs, and its state. Muon meets linear maps, (out, in): a parameter
    that joins several, or holds them on their side, is taken apart for the step.

    Source:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks":
        momentum 0.95 with Nesterov's look ahead, made orthogonal by five steps of
        Newton and Schulz in bfloat16, scaled by sqrt(max(1, rows / columns)); queries,
        keys and values apart. ``wide`` takes these steps in float32, which gives the
        same to what bfloat16 rounds away (its 8 bits).
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        betas: tuple[float, float],
        *,
        wide: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Take groups with ``lr`` and ``weight_decay``; ``betas`` are AdamW's.

        A group for Muon may have :data:`LAYOUTS`; without them each of its parameters
        is one map.

        ``wide``: for processors that multiply no bfloat16 and imitate it, which takes
        several times as long as float32.

        Of several processes each keeps the state of whole parameters, steps these and
        sends them to all. What a step gives does not depend on their number.

        Raises:
            ValueError: a group for Muon holds what is no matrix.
        """
        super().__init__(list(groups), {MATRICES: False, LAYOUTS: None})
        self.rank, self.world_size = rank, world_size
        self._owners: dict[int, int] = {}
        for group in self.param_groups:
            self._owners |= _owners(group["params"], world_size)
        kinds: tuple[tuple[bool, Callable[..., torch.optim.Optimizer], Any], ...] = (
            (True, _WideMuon if wide else torch.optim.Muon, {}),
            (False, torch.optim.AdamW, {"betas": betas}),
        )
        self._parts = {
            matrices: build(self._groups(matrices), **settings)
            for matrices, build, settings in kinds
            if self._groups(matrices)
        }

    def _groups(self, matrices: bool) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group[MATRICES] is matrices]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step of both."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        others = [p for p in self._every() if self.owner(p) != self.rank]
        gradients = [parameter.grad for parameter in others]
        for parameter in others:
            parameter.grad = None  # which both leave alone
        if False in self._parts:
            # Each time: loading a state, as accelerate does, makes both anew.
            adamw = self._parts[False]
            adamw.param_groups, adamw.state = self._groups(False), self.state
            adamw.step()
        if True in self._parts:
            self._step_matrices(self._parts[True])
        for parameter, gradient in zip(others, gradients, strict=True):
            parameter.grad = gradient
        self._send()
        return loss

    def owner(self, parameter: Tensor) -> int:
        """The process that keeps a parameter's state and steps it."""
        return self._owners[id(parameter)]

    def _every(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _send(self) -> None:
        """Give every process the parameters that each has stepped."""
        if self.world_size == 1:
            return
        for rank in range(self.world_size):
            theirs: dict[torch.dtype, list[Tensor]] = {}
            for parameter in self._every():
                if self.owner(parameter) == rank:
                    theirs.setdefault(parameter.dtype, []).append(parameter)
            for parameters in theirs.values():
                flat = torch.cat([p.data.flatten() for p in parameters])
                torch.distributed.broadcast(flat, src=rank)
                parts = flat.split([p.numel() for p in parameters])
                for parameter, part in zip(parameters, parts, strict=True):
                    parameter.data.copy_(part.view_as(parameter))

    def _step_matrices(self, muon: torch.optim.Optimizer) -> None:
        muon.param_groups, muon.state = [], defaultdict(dict)
        taken_apart: list[_Apart] = []
        for group in self._groups(True):
            maps: list[Tensor] = []
            for parameter, layout in zip(
                group["params"],
                group[LAYOUTS] or [Layout()] * len(group["params"]),
                strict=True,
            ):
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                _count(state)
                if layout.is_one_map:
                    maps.append(parameter)
                    muon.state[parameter] = state
                    continue
                state.setdefault(MOMENTUM, torch.zeros_like(parameter))
                apart = _Apart(parameter, layout, state[MOMENTUM])
                for part, momentum in zip(apart.maps, apart.momenta, strict=True):
                    muon.state[part][MOMENTUM] = momentum
                maps += apart.maps
                taken_apart.append(apart)
            muon.param_groups.append({**group, "params": maps})
        muon.step()
        for apart in taken_apart:
            apart.put_back()


class _WideMuon(torch.optim.Muon):
    """PyTorch's Muon, whose steps of Newton and Schulz are float32 instead."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """See :meth:`torch.optim.Muon.step`; ``closure`` is not called."""
        for group in self.param_groups:
            rate, momentum = float(group["lr"]), group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                buffer = self.state[parameter].setdefault(
                    MOMENTUM, torch.zeros_like(parameter.grad)
                )
                buffer.lerp_(parameter.grad, 1 - momentum)
                ahead = parameter.grad.lerp(buffer, momentum)  # Nesterov's
                update = orthogonal(
                    ahead, group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                rows, columns = parameter.shape
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.add_(update, alpha=-rate * max(1, rows / columns) ** 0.5)


def orthogonal(
    matrix: Tensor,
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float,
) -> Tensor:
    """Bring the singular values of a matrix near 1, in float32.

    Args:
        matrix: (R, C) float.
        coefficients: of x, x^3 and x^5 of the polynomial that each step applies.
        steps: how often.
        eps: least norm that is divided by.

    Returns:
        (R, C) float32.

    Source:
        Jordan et al. 2024, as ``torch.optim.Muon`` does it in bfloat16.
    """
    first, third, fifth = coefficients
    upright = matrix.shape[0] > matrix.shape[1]
    x = matrix.float().mT if upright else matrix.float()
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        gram = torch.addmm(gram, gram, gram, beta=third, alpha=fifth)
        x = torch.addmm(x, gram, x, beta=first)
    return x.mT if upright else x


class _Apart:
    """The maps of one parameter, with gradients and momenta, during a step."""

    def __init__(self, parameter: Tensor, layout: Layout, momentum: Tensor) -> None:
        assert parameter.grad is not None
        self._parameter, self._layout, self._momentum = parameter, layout, momentum
        self.maps, self.momenta = layout.split(parameter.data), layout.split(momentum)
        for part, slope in zip(self.maps, layout.split(parameter.grad), strict=True):
            part.grad = slope

    def put_back(self) -> None:
        self._layout.join(self.maps, self._parameter.data)
        self._layout.join(self.momenta, self._momentum)


def _owners(parameters: Sequence[Tensor], world_size: int) -> dict[int, int]:
    """A process by parameter: the largest first, each to who has least so far."""
    owners, loads = {}, [0] * world_size
    for parameter in sorted(parameters, key=Tensor.numel, reverse=True):
        owner = loads.index(min(loads))
        owners[id(parameter)] = owner
        loads[owner] += parameter.numel()
    return owners


def _count(held: dict[str, Any]) -> None:
    """Note a step, as AdamW does of its own: checkpoints ask how many there were."""
    held["step"] = held.get("step", torch.tensor(0.0)) + 1
