"""What of a phase's terms learns, and is saved with the student."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from align.errors import InputError
from student.objective import Objective, wants_sample


def modules_of(objectives: Mapping[str, Objective]) -> nn.ModuleDict:
    """The terms that are modules, by a name that no method of a module has.

    Args:
        objectives: by name.

    Raises:
        InputError: one holds parameters and is no module, so they would never learn;
            or it is fitted and is no module, so that nothing would save what it found.
    """
    modules = {}
    for name, objective in objectives.items():
        if isinstance(objective, nn.Module):
            modules[f"{name}-term"] = objective
        elif hidden := _hidden_parameters(objective):
            raise InputError(
                f"objective {name!r} holds parameters in {hidden!r} and is no module: "
                "nothing would train or save them; make it a torch.nn.Module"
            )
        elif wants_sample(objective):
            raise InputError(
                f"objective {name!r} has a method fit and is no module: nothing would "
                "save what it learns from the sample; make it a torch.nn.Module that "
                "keeps it in parameters or buffers"
            )
    return nn.ModuleDict(modules)


def _hidden_parameters(holder: Any, deeper: bool = True) -> str:
    """The attribute, of an object or of what it stands for, that could learn."""
    for name, value in getattr(holder, "__dict__", {}).items():
        if isinstance(value, nn.Module):
            learns = any(p.requires_grad for p in value.parameters())
        elif isinstance(value, Tensor):
            learns = value.requires_grad
        else:
            object_of_its_own = deeper and not isinstance(value, type | ModuleType)
            learns = object_of_its_own and _hidden_parameters(value, False) != ""
        if learns:
            return str(name)
    return ""
