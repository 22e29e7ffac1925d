"""Make one target from several teachers: averages, routers, a shared latent."""

from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from fuse.config import FUSION_METHODS, FuseConfig
    from fuse.fuse_kv import (
        Fused,
        fuse_kvs_fixed,
        fuse_kvs_learnable,
        fuse_kvs_similarity,
        fuse_with_weights,
    )
    from fuse.routers.label import LabelRouter
    from fuse.routers.prequential import PrequentialRouter
    from fuse.routers.router import (
        ROUTER_TYPES,
        FixedRouter,
        LearnableRouter,
        routing_query,
    )
    from fuse.routers.similarity import RoutingSample, SimilarityRouter
    from fuse.routing_loss import (
        EntropyRegularizer,
        expected_teacher_loss,
        weigh_losses,
    )
    from fuse.routing_room import RoutingRoom, routing_room
    from fuse.routing_stats import (
        RoutingAlarm,
        RoutingStats,
        routing_alarm,
        routing_entropy,
    )
    from fuse.signals import Signals
    from fuse.weigher import FixedWeigher, Weigher
    from fuse.z.agreement import agreement
    from fuse.z.space import ZSpace
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "FUSION_METHODS",
    "ROUTER_TYPES",
    "EntropyRegularizer",
    "FixedRouter",
    "FixedWeigher",
    "FuseConfig",
    "Fused",
    "LabelRouter",
    "LearnableRouter",
    "PrequentialRouter",
    "RoutingAlarm",
    "RoutingRoom",
    "RoutingSample",
    "RoutingStats",
    "Signals",
    "SimilarityRouter",
    "Weigher",
    "ZSpace",
    "agreement",
    "expected_teacher_loss",
    "fuse_kvs_fixed",
    "fuse_kvs_learnable",
    "fuse_kvs_similarity",
    "fuse_with_weights",
    "routing_alarm",
    "routing_entropy",
    "routing_query",
    "routing_room",
    "weigh_losses",
]
