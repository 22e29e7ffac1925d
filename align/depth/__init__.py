"""Layer maps that are read off what layers compute, beside the most similar ones."""

from align.depth.density import DenseLayers, density_layer_map, layer_steps
from align.depth.importance import ImportantLayers, importance_layer_map
from align.depth.reconstruction import RebuiltLayers, reconstruction

__all__ = [
    "DenseLayers",
    "ImportantLayers",
    "RebuiltLayers",
    "density_layer_map",
    "importance_layer_map",
    "layer_steps",
    "reconstruction",
]
