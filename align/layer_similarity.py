"""Choose teacher layers by what they compute, not by how deep they lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from align.layer_map import LayerMap

_STD_FLOOR = 1e-6
"""Channels that vary less than this, relative to their layer, say nothing."""


class LayerSimilarity:
    """Gathers features of the same tokens in two models and compares all layers.

    Memory is bounded: the first ``max_tokens`` tokens count, later ones are ignored.
    """

    def __init__(self, max_tokens: int = 1024) -> None:
        """Start empty.

        Args:
            max_tokens: how many tokens are compared, at least 2. Cost and memory
                grow with its square; well above the features' effective rank, more
                tokens change little.
        """
        if max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens}; similarity needs 2 or more")
        self.max_tokens = max_tokens
        self.n = 0
        """Tokens gathered so far."""
        self.importance: Tensor | None = None
        """(L_t,) float64 >= 0, by how much the teacher's own loss would move without
        each layer; None unless the map asks for it by ``needs_importance``."""
        self._teacher: list[Tensor] = []
        self._student: list[Tensor] = []

    @property
    def full(self) -> bool:
        """Whether further tokens would be ignored."""
        return self.n >= self.max_tokens

    @property
    def teacher(self) -> Tensor:
        """(L_t, n, C_t) float32, the teacher's features as gathered."""
        return torch.cat(self._gathered(self._teacher), dim=1)

    @property
    def student(self) -> Tensor:
        """(L_s, n, C_s) float32, the student's features of the same tokens."""
        return torch.cat(self._gathered(self._student), dim=1)

    @torch.no_grad()
    def update(self, teacher: Tensor, student: Tensor) -> None:
        """Add the features of N tokens.

        Args:
            teacher: (L_t, N, C_t) float, all layers, already on the student's tokens
                (:meth:`Alignment.apply`); leave out uncovered and sink tokens.
            student: (L_s, N, C_s) float, the same tokens.

        Raises:
            ValueError: shapes do not fit, or a value is not finite.
        """
        for name, value, before in (
            ("teacher", teacher, self._teacher),
            ("student", student, self._student),
        ):
            if value.dim() != 3 or (
                before and value.shape[::2] != before[0].shape[::2]
            ):
                expected = tuple(before[0].shape[::2]) if before else "L and C"
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}; give (L, N, C), with "
                    f"{expected} as before"
                )
            if not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"{name} holds values that are not finite; leave out padded and "
                    "uncovered tokens"
                )
        if teacher.shape[1] != student.shape[1]:
            raise ValueError(
                f"{teacher.shape[1]} teacher tokens for {student.shape[1]} student "
                "tokens; give the same tokens of both"
            )
        room = self.max_tokens - self.n
        count = min(room, teacher.shape[1])
        if count:
            self._teacher.append(teacher[:, :count].float().cpu())
            self._student.append(student[:, :count].float().cpu())
            self.n += count

    def cka(self, standardize: bool = True) -> Tensor:
        """Compare every teacher layer with every student layer.

        Args:
            standardize: give every channel unit variance first, so that a few loud
                channels do not decide.

        Returns:
            (L_t, L_s) float64 in [0, 1]; 1 where the features are equal up to a
            rotation and a scale, 0 for a layer that does not vary.

        Raises:
            ValueError: fewer than two tokens were gathered.

        Source:
            Linear centred kernel alignment (Kornblith et al., 2019):
            |Y'X|^2 / (|X'X| |Y'Y|) with Frobenius norms and centred features,
            computed over the Gram matrices of the tokens.
        """
        student = [gram(layer, standardize) for layer in self.student]
        rows = []
        for layer in self.teacher:
            theirs = gram(layer, standardize)
            rows.append(torch.stack([(theirs * other).sum() for other in student]))
        return torch.stack(rows).clamp(0, 1)

    def _gathered(self, parts: list[Tensor]) -> list[Tensor]:
        if self.n < 2:
            raise ValueError(
                f"{self.n} tokens gathered; call update() with covered tokens first"
            )
        return parts


def gram(x: Tensor, standardize: bool) -> Tensor:
    """(N, N) float64 inner products of centred tokens, of Frobenius norm 1 or 0."""
    x = x.double()
    x = x - x.mean(0)
    if standardize:
        std = x.square().mean(0).sqrt()
        varies = std > _STD_FLOOR * std.mean()
        x = x[:, varies] / std[varies]
    products = x @ x.T
    norm = products.norm()
    return products / norm if norm > 0 else products


def similarity_layer_map(similarity: Tensor) -> LayerMap:
    """Follow the most similar layers without ever going back down.

    Each student layer gets one teacher layer. Where the teacher is at least as deep,
    no two get the same; a deeper student may repeat one.

    Args:
        similarity: (L_t, L_s), from :meth:`LayerSimilarity.cka`.

    Returns:
        The map with the largest total similarity; of equal ones, the one whose
        layers lie lower.

    Raises:
        ValueError: not a matrix, or a value is not finite.

    Source:
        Dynamic programming over monotone paths, as in Needleman and Wunsch (1970)
        without gaps on the student's side.
    """
    if similarity.dim() != 2 or not similarity.numel():
        raise ValueError(
            f"similarity has shape {tuple(similarity.shape)}; give (L_t, L_s)"
        )
    if not bool(torch.isfinite(similarity).all()):
        raise ValueError("similarity holds values that are not finite")
    scores = similarity.double().T.tolist()  # by student layer, then teacher layer
    teachers, students = similarity.shape
    step = 1 if teachers >= students else 0
    best, came_from = list(scores[0]), []
    for student in range(1, students):
        total, origin, top = [], [], -1
        for teacher in range(teachers):
            below = teacher - step
            if below >= 0 and (top < 0 or best[below] > best[top]):
                top = below
            reachable = top >= 0
            origin.append(top)
            total.append(
                scores[student][teacher] + best[top] if reachable else -float("inf")
            )
        best = total
        came_from.append(origin)
    path = [max(range(teachers), key=best.__getitem__)]
    for origin in reversed(came_from):
        path.append(origin[path[-1]])
    return LayerMap(tuple(((layer, 1.0),) for layer in reversed(path)))


@dataclass(frozen=True, slots=True)
class SampledLayers:
    """A layer map that is read off what layers compute on a sample."""

    needs_sample: bool = True

    def __call__(
        self,
        num_teacher_layers: int,
        num_student_layers: int,
        sample: LayerSimilarity,
    ) -> LayerMap:
        """Map the layers of one teacher, from features of a sample.

        Raises:
            ValueError: the sample is of other models, or holds no token.
        """
        check_sample(sample, num_teacher_layers, num_student_layers)
        return self.choose(sample)

    def choose(self, sample: LayerSimilarity) -> LayerMap:
        """The map, of a sample that is of these models."""
        raise NotImplementedError


class SimilarLayers(SampledLayers):
    """The layer map ``cka``: the monotone path of the most similar layers."""

    def choose(self, sample: LayerSimilarity) -> LayerMap:
        """See :meth:`SampledLayers.choose`."""
        return similarity_layer_map(sample.cka())


def check_sample(sample: LayerSimilarity, num_teacher: int, num_student: int) -> None:
    """See that a sample is of the models that are mapped.

    Args:
        sample: what was gathered.
        num_teacher: the teacher's layers.
        num_student: the student's.

    Raises:
        ValueError: it is of others, or holds no token.
    """
    held = len(sample.teacher), len(sample.student)
    if held != (num_teacher, num_student):
        raise ValueError(
            f"the sample holds {held[0]} teacher and {held[1]} student layers, but the "
            f"map is for {num_teacher} and {num_student}"
        )
