"""The built-in plugins, offered through the same hooks as anyone's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from align import calibration, layer_map, rope_scale
from align.calibration import CalibrationStats
from align.depth import DenseLayers, ImportantLayers, RebuiltLayers
from align.layer_map import LayerMap
from align.layer_similarity import SimilarLayers
from align.schedules import Rule
from align.tokenizer_align import (
    CausalCharIoUAligner,
    CharIoUAligner,
    ChunkEndAligner,
    LastTokenAligner,
)
from fuse.beforehand.difficulty import DifficultyRouter
from fuse.routers.confidence import ConfidenceRouter
from fuse.routers.constant import ConstantRouter
from fuse.routers.label import LabelRouter
from fuse.routers.prequential import PrequentialRouter
from fuse.routers.router import ROUTER_TYPES, FixedRouter, LearnableRouter
from fuse.routers.score import ScoreRouter
from fuse.routers.similarity import SimilarityRouter
from plugins.hookspecs import Aligner, Space, hookimpl
from student.balance import BALANCERS, Balancer
from student.bridges import AdapterBridge, LatentBridge, ProjectorBridge
from student.curriculum import CURRICULA, Curriculum
from student.evaluators import EVALUATORS, Evaluator
from student.match import DISTANCES, PROJECTORS, Distance, Match
from student.objective import Objective
from student.output.temperature import TEMPERATURES
from student.own import OWN
from student.select import SELECTORS, Selector
from student.terms.key_value import OBJECTIVES
from student.transforms import TRANSFORMS, StudentTransform
from teacher.making.base import StudentMaker
from teacher.making.built_in import MAKERS
from teacher.sources.base import TeacherSource
from teacher.sources.built_in import SOURCES
from teacher.writing import WAYS, Way


@hookimpl
def aligners() -> Mapping[str, Callable[[], Aligner]]:
    """Character overlap with and without the future, last tokens, chunk ends."""
    return {
        "char_iou": CharIoUAligner,
        "causal_char_iou": CausalCharIoUAligner,
        "last_token": LastTokenAligner,
        "chunk_end": ChunkEndAligner,
    }


@hookimpl
def layer_maps() -> Mapping[str, Callable[..., LayerMap]]:
    """By depth alone; by what layers compute on a sample."""
    return {
        **layer_map.STRATEGIES,
        "cka": SimilarLayers(),
        "density": DenseLayers(),
        "reconstruction": RebuiltLayers(),
        "importance": ImportantLayers(),
    }


@hookimpl
def adapters() -> Mapping[str, Callable[[CalibrationStats], tuple[Tensor, Tensor]]]:
    """PCA and Procrustes rotation, whitened or not, and ridge regression."""
    return dict(calibration.METHODS)


@hookimpl
def rope_scalers() -> Mapping[str, Callable[[float, int, float], float]]:
    """What each built-in method makes of the base."""
    return {
        name: partial(rope_scale.scaled_base, method=name)
        for name in rope_scale.METHODS
    }


@hookimpl
def routers() -> Mapping[str, Callable[..., nn.Module]]:
    """Four that learn; nearness, what was read before, how sure teachers are, labels,
    difficulty, constant shares."""
    return {
        "confidence": ConfidenceRouter,
        "constant": ConstantRouter,
        "difficulty": DifficultyRouter,
        "fixed": FixedRouter,
        "label": LabelRouter,
        "prequential": PrequentialRouter,
        "score": ScoreRouter,
        "similarity": SimilarityRouter,
        **{name: _learnable(name) for name in ROUTER_TYPES},
    }


def _learnable(router_type: str) -> Callable[[int, int], nn.Module]:
    def build(hidden_dim: int, num_teachers: int) -> nn.Module:
        return LearnableRouter(hidden_dim, num_teachers, router_type)

    return build


@hookimpl
def spaces() -> Mapping[str, Space]:
    """The student's dimensions, each teacher's own, a latent that all share."""
    return {
        "student": AdapterBridge,
        "losses": ProjectorBridge,
        "z": LatentBridge.of_sizes,
    }


@hookimpl
def objectives() -> Mapping[str, Callable[..., Objective]]:
    """Next-token loss, KV distances, attention and relation KL, teachers' outputs, any
    site by any distance, and what asks no teacher."""
    return {**OBJECTIVES, "match": Match, **OWN}


@hookimpl
def distances() -> Mapping[str, Callable[..., Distance]]:
    """Token by token, text by text, and between all tokens of a pass."""
    return dict(DISTANCES)


@hookimpl
def projectors() -> Mapping[str, Callable[..., nn.Module]]:
    """Linear, with a hidden layer, rotations, and leading directions."""
    return dict(PROJECTORS)


@hookimpl
def balancers() -> Mapping[str, Callable[..., Balancer]]:
    """By size, by gradients' lengths, by learned weights, by directions."""
    return dict(BALANCERS)


@hookimpl
def selectors() -> Mapping[str, Callable[..., Selector]]:
    """By entropy, by the student's doubt, by excess loss, by a teacher's confidence."""
    return dict(SELECTORS)


@hookimpl
def teacher_sources() -> Mapping[str, Callable[..., TeacherSource]]:
    """Files: folders and the hub, packages, the embedded zoo."""
    return dict(SOURCES)


@hookimpl
def student_makers() -> Mapping[str, Callable[..., StudentMaker]]:
    """Some of a model's layers."""
    return dict(MAKERS)


@hookimpl
def transforms() -> Mapping[str, Callable[..., StudentTransform]]:
    """Weights that are rounded, pruned or of low rank; layers that are left out."""
    return dict(TRANSFORMS)


@hookimpl
def writers() -> Mapping[str, Callable[..., Way]]:
    """The likeliest tokens, drawn ones, a search, drawn texts that differ."""
    return dict(WAYS)


@hookimpl
def evaluators() -> Mapping[str, Callable[..., Evaluator]]:
    """Likelihood, size, speed, cost, writing, agreement, diversity, the harness."""
    return dict(EVALUATORS)


@hookimpl
def curricula() -> Mapping[str, Callable[..., Curriculum]]:
    """Bands, soft edges, competence, mixtures of domains, what is to be had."""
    return dict(CURRICULA)


@hookimpl
def schedules() -> Mapping[str, Rule]:
    """Curves over steps, and rules by what teacher and gradients look like."""
    return dict(TEMPERATURES)
