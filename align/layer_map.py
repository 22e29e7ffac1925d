"""Say which teacher layers feed each student layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from align.errors import InputError
from align.kv import KV
from align.support.caches import cache_layers, is_cache

Feed = tuple[int, float]
"""A teacher layer and its weight."""


@dataclass(frozen=True, slots=True)
class LayerMap:
    """For every student layer, the teacher layers that feed it."""

    layers: tuple[tuple[Feed, ...], ...]
    """One entry a student layer: (teacher layer, weight) pairs, weights sum to 1."""

    def __post_init__(self) -> None:
        """Check weights and indices.

        Raises:
            ValueError: an empty entry, a negative layer or weight, or a sum not 1.
        """
        for index, feeds in enumerate(self.layers):
            if not feeds:
                raise InputError(
                    f"layer map: student layer {index} has no teacher layer; give at "
                    "least one (layer, weight)"
                )
            if any(layer < 0 or weight < 0 for layer, weight in feeds):
                raise InputError(
                    f"layer map: student layer {index} reads {list(feeds)}; layers "
                    "and weights are >= 0"
                )
            total = sum(weight for _, weight in feeds)
            if abs(total - 1) > 1e-6:
                raise InputError(
                    f"layer map: the weights of student layer {index} sum to {total}; "
                    "make them sum to 1"
                )

    def __len__(self) -> int:
        """L_s, the student's layers."""
        return len(self.layers)

    def __getitem__(self, index: int) -> tuple[Feed, ...]:
        """The pairs that feed one student layer."""
        return self.layers[index]

    def __iter__(self) -> Iterator[tuple[Feed, ...]]:
        """Student layers from the bottom up."""
        return iter(self.layers)

    @property
    def needed(self) -> tuple[int, ...]:
        """Teacher layers that are read at all, ascending."""
        return tuple(sorted({layer for feeds in self.layers for layer, _ in feeds}))

    @property
    def heaviest(self) -> tuple[int, ...]:
        """Of every student layer the teacher layer that weighs most; the first of
        several."""
        return tuple(max(feeds, key=lambda feed: feed[1])[0] for feeds in self.layers)

    def remap(self) -> LayerMap:
        """The same map into a teacher that kept only :attr:`needed`."""
        place = {layer: index for index, layer in enumerate(self.needed)}
        return LayerMap(
            tuple(
                tuple((place[layer], weight) for layer, weight in feeds)
                for feeds in self.layers
            )
        )

    def crowded(self, num_teacher_layers: int) -> tuple[int, int] | None:
        """A teacher layer that feeds more than twice its fair share of the student.

        Args:
            num_teacher_layers: L_t. Spread evenly, ``ceil(L_s / L_t)`` student layers
                read a teacher layer.

        Returns:
            The layer that weighs most in the most student layers, and in how many;
            None where none exceeds that.
        """
        main_layers = self.heaviest
        layer = max(
            set(main_layers),
            key=lambda candidate: (main_layers.count(candidate), -candidate),
        )
        fair = -(-len(main_layers) // num_teacher_layers)
        crowd = main_layers.count(layer)
        return (layer, crowd) if crowd > 2 * fair else None

    def matrix(self, num_teacher_layers: int | None = None) -> Tensor:
        """(L_s, L_t) float32 weights; L_t reaches the last needed layer by default."""
        width = num_teacher_layers or self.needed[-1] + 1
        out = torch.zeros(len(self.layers), width)
        for index, feeds in enumerate(self.layers):
            for layer, weight in feeds:
                out[index, layer] += weight
        return out


Strategy = Callable[[int, int], LayerMap]
"""(teacher layers, student layers) -> map."""


def ratio(num_teacher_layers: int, num_student_layers: int) -> LayerMap:
    """Interpolate between the two neighbouring teacher layers.

    Student layer i of L_s reads depth i (L_t - 1) / (L_s - 1) of the teacher: bottom
    to bottom, top to top, every student layer exactly once. A student of one layer
    reads the teacher's top.

    Source:
        Linear interpolation. Departure: recipes send teacher layer l to student layer
        ``round(l · L_s / L_t)``, by which several teachers' layers meet in one and, of
        a student that is deeper, some have none.
    """
    layers: list[tuple[Feed, ...]] = []
    for depth in _depths(num_teacher_layers, num_student_layers):
        low = int(depth)
        share = depth - low
        feeds = [(low, float(1 - share))]
        if share:
            feeds.append((low + 1, float(share)))
        layers.append(tuple(feeds))
    return LayerMap(tuple(layers))


def uniform(num_teacher_layers: int, num_student_layers: int) -> LayerMap:
    """Copy the teacher layer nearest to each evenly spaced depth (half goes up)."""
    return LayerMap(
        tuple(
            ((int(depth + Fraction(1, 2)), 1.0),)
            for depth in _depths(num_teacher_layers, num_student_layers)
        )
    )


def skip(num_teacher_layers: int, num_student_layers: int) -> LayerMap:
    """Copy every k-th teacher layer, k = L_t // L_s, so that top meets top.

    Source:
        Sanh et al. (2019) start DistilBERT from every second teacher layer. A student
        deeper than its teacher repeats the teacher's bottom layer.
    """
    _check_counts(num_teacher_layers, num_student_layers)
    step = max(1, num_teacher_layers // num_student_layers)
    top = num_teacher_layers - 1
    return LayerMap(
        tuple(
            ((max(0, top - step * (num_student_layers - 1 - index)), 1.0),)
            for index in range(num_student_layers)
        )
    )


def floor(num_teacher_layers: int, num_student_layers: int) -> LayerMap:
    """Copy evenly spaced teacher layers from the bottom up: layer ``i L_t // L_s``.

    Bottom meets bottom; the teacher's last ``L_t / L_s`` layers are left out but one,
    [0, 4, 8, 12, 16, 20] of 24 for a student of six.
    """
    _check_counts(num_teacher_layers, num_student_layers)
    return LayerMap(
        tuple(
            ((index * num_teacher_layers // num_student_layers, 1.0),)
            for index in range(num_student_layers)
        )
    )


def origin(num_teacher_layers: int, num_student_layers: int) -> LayerMap:
    """Read the layer that each layer was before the student was made: :func:`ratio`.

    Only a run knows of which teacher the student was made, and by which of its layers;
    it writes that map out. This is the map of all other teachers.
    """
    return ratio(num_teacher_layers, num_student_layers)


def needs_sample(strategy: Callable[..., LayerMap]) -> bool:
    """Whether a map looks at what the layers compute, beside how many there are."""
    return bool(getattr(strategy, "needs_sample", False))


def needs_importance(strategy: Callable[..., LayerMap]) -> bool:
    """Whether a map that looks at a sample asks how much each layer is missed."""
    return bool(getattr(strategy, "needs_importance", False))


STRATEGIES: dict[str, Strategy] = {
    "ratio": ratio,
    "uniform": uniform,
    "skip": skip,
    "floor": floor,
    "origin": origin,
}
"""Built-in strategies that need depths alone, by name."""


def build_multi_teacher_layer_map(
    teacher_layers: Sequence[int],
    num_student_layers: int,
    strategy: str | Strategy | Sequence[Sequence[Sequence[Feed] | int]] = "ratio",
    teacher_names: Sequence[str] | None = None,
) -> list[LayerMap]:
    """Map the layers of M teachers to one student.

    Args:
        teacher_layers: the number of layers of each teacher, e.g. [24, 32].
        num_student_layers: L_s.
        strategy: ``ratio``, ``uniform``, ``skip`` or ``floor``, a function
            (L_t, L_s) -> LayerMap, or an explicit map a teacher: for every student
            layer one teacher layer or a list of (layer, weight).
        teacher_names: names for error messages.

    Returns:
        One LayerMap a teacher, each with L_s entries.

    Raises:
        ValueError: an unknown strategy, no layers, or a map that asks for a layer
            which the teacher lacks.
    """
    names = list(teacher_names or [""] * len(teacher_layers))
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise InputError(
                f"unknown layer map {strategy!r}; valid are "
                f"{', '.join(sorted(STRATEGIES))}, a function or explicit lists"
            )
        strategy = STRATEGIES[strategy]
    if callable(strategy):
        maps = [strategy(count, num_student_layers) for count in teacher_layers]
    else:
        if len(strategy) != len(teacher_layers):
            raise InputError(
                f"{len(strategy)} explicit layer maps for {len(teacher_layers)} "
                "teachers; give one map a teacher"
            )
        maps = [_explicit(entry) for entry in strategy]
    for index, (layer_map, count) in enumerate(zip(maps, teacher_layers, strict=True)):
        _check_map(index, names[index], layer_map, count, num_student_layers)
    return maps


def interpolate_teacher_layers(
    teacher_kvs: Any,
    layer_map: LayerMap | Sequence[LayerMap],
    num_student_layers: int,
    kept: bool = False,
) -> Any:
    """Mix each teacher's layers into the student's.

    Args:
        teacher_kvs: M teachers, each a KV, a tensor (L_t, ...), or a
            ``past_key_values``: for every layer a (keys, values) pair, or a
            transformers ``Cache``. One teacher may stand by itself, without a list.
        layer_map: M maps from :func:`build_multi_teacher_layer_map`, or the map of a
            single teacher.
        num_student_layers: L_s.
        kept: the KV hold only each map's :attr:`LayerMap.needed` layers, in order.

    Returns:
        M of the same type with L_s layers; a cache gives a tuple of pairs. One teacher
        by itself comes back by itself.

    Raises:
        ValueError: M or L_s differ, or a map asks for a layer that is not there.
    """
    alone = isinstance(teacher_kvs, KV | Tensor) or is_cache(teacher_kvs)
    maps = [layer_map] if isinstance(layer_map, LayerMap) else list(layer_map)
    teachers = [teacher_kvs] if alone else list(teacher_kvs)
    if len(teachers) != len(maps):
        raise ValueError(
            f"{len(teachers)} teachers but {len(maps)} layer maps; give one "
            "map a teacher"
        )
    mixed = [
        _mix_teacher(
            index, kv, one_map.remap() if kept else one_map, num_student_layers
        )
        for index, (kv, one_map) in enumerate(zip(teachers, maps, strict=True))
    ]
    return mixed[0] if alone else mixed


def _mix_teacher(index: int, kv: Any, use: LayerMap, num_student_layers: int) -> Any:
    if isinstance(kv, Tensor):
        _check_map(index, "", use, kv.shape[0], num_student_layers)
        return _mix(kv, use)
    if isinstance(kv, KV):
        _check_map(index, "", use, kv.num_layers, num_student_layers)
        return KV(_mix(kv.k, use), _mix(kv.v, use), kv.mask)
    if not is_cache(kv):
        raise ValueError(
            f"teachers[{index}] is a {type(kv).__name__}; give a KV, a tensor (L, ...) "
            "or for every layer a (keys, values) pair"
        )
    layers = cache_layers(kv)
    _check_map(index, "", use, len(layers), num_student_layers)
    keys, values = zip(*layers, strict=True)
    return tuple((mix_layer(keys, feeds), mix_layer(values, feeds)) for feeds in use)


def mix_layer(x: Tensor | Sequence[Tensor], feeds: Sequence[Feed]) -> Tensor:
    """One student layer (...) from the teacher layers (L_t, ...) that feed it.

    Where one layer has all the weight this is a view of it.
    """
    used = [(layer, weight) for layer, weight in feeds if weight]
    (first, weight), *further = used
    if not further:
        return x[first]
    dtype = x[first].dtype
    wide = dtype if dtype == torch.float64 else torch.float32
    if len(further) == 1:  # the usual case in one pass over memory
        share = further[0][1] / (weight + further[0][1])
        second = x[further[0][0]]
        return torch.lerp(x[first].to(wide), second.to(wide), share).to(dtype)
    total = sum(x[layer].to(wide) * weight for layer, weight in used)
    return torch.as_tensor(total).to(dtype)


def _mix(x: Tensor, layer_map: LayerMap) -> Tensor:
    """(L_t, ...) to (L_s, ...)."""
    return torch.stack([mix_layer(x, feeds) for feeds in layer_map])


def _depths(num_teacher_layers: int, num_student_layers: int) -> list[Fraction]:
    _check_counts(num_teacher_layers, num_student_layers)
    top = num_teacher_layers - 1
    if num_student_layers == 1:
        return [Fraction(top)]
    return [
        Fraction(index * top, num_student_layers - 1)
        for index in range(num_student_layers)
    ]


def _explicit(entries: Sequence[Sequence[Feed] | int]) -> LayerMap:
    layers: list[tuple[Feed, ...]] = []
    for entry in entries:
        if isinstance(entry, int):
            layers.append(((entry, 1.0),))
        else:
            layers.append(tuple((int(layer), float(w)) for layer, w in entry))
    return LayerMap(tuple(layers))


def _check_counts(num_teacher_layers: int, num_student_layers: int) -> None:
    for name, count in (
        ("teacher", num_teacher_layers),
        ("student", num_student_layers),
    ):
        if count < 1:
            raise InputError(f"a {name} has {count} layers; give at least 1")


def _check_map(
    index: int, name: str, layer_map: LayerMap, num_teacher: int, num_student: int
) -> None:
    who = f"teachers[{index}]" + (f" {name!r}" if name else "")
    if len(layer_map) != num_student:
        raise InputError(
            f"{who}: layer map has {len(layer_map)} entries, but the student has "
            f"{num_student} layers; fix align.layer_map"
        )
    last = layer_map.needed[-1]
    if last >= num_teacher:
        raise InputError(
            f"{who}: layer map asks for layer {last}, but the model has layers "
            f"0..{num_teacher - 1}; fix align.layer_map"
        )
