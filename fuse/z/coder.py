"""Encode one model's keys (or values) into a shared latent, and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EIGENVALUE_FLOOR = 1e-4
"""Principal directions below this share of the largest variance stay unused:
whitening them would blow up noise."""

STD_FLOOR = 1e-2
"""Smallest standard deviation used for a channel, relative to its layer's mean one:
a channel that happened to rest in the sample must not explode when it moves."""


class LayerwiseCoder(nn.Module):
    """One linear encoder and decoder per layer, with an optional residual MLP.

    Features are standardised per layer and channel with fixed statistics, so a
    loss in standardised units treats every teacher alike. Before calibration the
    statistics are the identity and the maps are orthogonal: a coder always works.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_layers: int, width: int, z_dim: int, hidden: int = 0):
        """Build the maps.

        Args:
            num_layers: L, >= 1.
            width: C, >= 1.
            z_dim: Z, >= 1.
            hidden: width of the residual MLPs in Z, >= 0; 0: none.
        """
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_layers, width))
        self.register_buffer("std", torch.ones(num_layers, width))
        encoder = torch.empty(num_layers, width, z_dim)
        for layer in encoder:
            nn.init.orthogonal_(layer)
        self.encoder = nn.Parameter(encoder)
        self.encoder_bias = nn.Parameter(torch.zeros(num_layers, z_dim))
        self.decoder = nn.Parameter(encoder.transpose(1, 2).contiguous())
        self.decoder_bias = nn.Parameter(torch.zeros(num_layers, width))
        self.encoder_mlp = _ResidualMlp(num_layers, z_dim, hidden)
        self.decoder_mlp = _ResidualMlp(num_layers, z_dim, hidden)

    def encode(self, x: Tensor) -> Tensor:
        """Map (L, B, T, C) to (L, B, T, Z), float32 outside of autocast."""
        z = _per_layer(self.standardise(x), self.encoder, self.encoder_bias)
        return self.encoder_mlp(z)

    def decode(self, z: Tensor) -> Tensor:
        """Map (L, B, T, Z) to (L, B, T, C) in the model's own units."""
        x = self.decode_standardised(z)
        return x * self.std[:, None, None] + self.mean[:, None, None]

    def standardise(self, x: Tensor) -> Tensor:
        """Shift and scale (L, B, T, C) by the calibrated statistics, float32."""
        return (x.float() - self.mean[:, None, None]) / self.std[:, None, None]

    def decode_standardised(self, z: Tensor) -> Tensor:
        """:meth:`decode` before the statistics are put back."""
        return _per_layer(self.decoder_mlp(z), self.decoder, self.decoder_bias)

    @torch.no_grad()
    def calibrate(self, mean: Tensor, std: Tensor, cov: Tensor) -> Tensor:
        """Set the linear maps to whitened principal directions, in closed form.

        Args:
            mean: (L, C) float.
            std: (L, C) float, > 0.
            cov: (L, C, C) float, of the raw features.

        Returns:
            (L,) float64, the share of standardised variance that Z keeps.

        Source:
            PCA on the correlation matrix; the encoder divides each direction by
            its standard deviation, the decoder multiplies it back.
        """
        std, cov = std.double(), cov.double()
        std = torch.maximum(std, STD_FLOOR * std.mean(1, keepdim=True))
        correlation = cov / std[:, :, None] / std[:, None]
        values, vectors = torch.linalg.eigh(correlation)  # ascending
        kept = min(self.encoder.shape[2], vectors.shape[2])
        values = values.flip(1)[:, :kept].clamp(min=0)  # (L, kept)
        vectors = vectors.flip(2)[:, :, :kept]  # (L, C, kept)
        largest = values[:, :1].clamp(min=torch.finfo(torch.float64).tiny)
        used = values > EIGENVALUE_FLOOR * largest
        scale = torch.where(used, values.sqrt(), 1.0)[:, None]  # (L, 1, kept)
        vectors = vectors * used[:, None]
        self.mean.copy_(mean)
        self.std.copy_(std)
        for parameter in self.parameters():
            parameter.zero_()
        self.encoder[:, :, :kept] = (vectors / scale).to(self.encoder)
        self.decoder[:, :kept] = (vectors * scale).transpose(1, 2).to(self.decoder)
        self.encoder_mlp.restart()
        self.decoder_mlp.restart()
        total = correlation.diagonal(dim1=1, dim2=2).sum(1)
        return (values * used).sum(1) / total.clamp(min=1e-12)

    @torch.no_grad()
    def rotate_towards(self, other: LayerwiseCoder, cross: Tensor) -> Tensor:
        """Turn Z by the rotation that best meets another coder's Z.

        Both coders must be fresh from :meth:`calibrate`, that is linear.

        Args:
            other: the coder to meet, for features y.
            cross: (L, C, C_y) float, covariance of our features with y.

        Returns:
            (L,) float64, mean correlation of the two latents per direction.

        Source:
            Orthogonal Procrustes (Schönemann 1966) on the latents' covariance.
        """
        scaled = cross.to(self.std.device).double() / self.std.double()[:, :, None]
        scaled = scaled / other.std.double()[:, None]
        cov = self.encoder.double().transpose(1, 2) @ scaled @ other.encoder.double()
        left, correlations, right = torch.linalg.svd(cov)
        rotation = left @ right  # (L, Z, Z)
        self.encoder.copy_(self.encoder.double() @ rotation)
        self.decoder.copy_(rotation.transpose(1, 2) @ self.decoder.double())
        return correlations.mean(1)


class _ResidualMlp(nn.Module):
    """z + MLP(z) per layer; the identity when fresh, and always if hidden is 0."""

    def __init__(self, num_layers: int, z_dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        if hidden:
            self.up = nn.Parameter(torch.empty(num_layers, z_dim, hidden))
            self.up_bias = nn.Parameter(torch.zeros(num_layers, hidden))
            self.down = nn.Parameter(torch.zeros(num_layers, hidden, z_dim))
            self.restart()

    def restart(self) -> None:
        if self.hidden:
            nn.init.normal_(self.up, std=self.up.shape[1] ** -0.5)
            nn.init.zeros_(self.down)

    def forward(self, z: Tensor) -> Tensor:
        if not self.hidden:
            return z
        inner = nn.functional.gelu(_per_layer(z, self.up, self.up_bias))
        return z + torch.einsum("lbtc,lcz->lbtz", inner, self.down)


def _per_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(L, B, T, C) times (L, C, Z) plus (L, Z) -> (L, B, T, Z)."""
    layers, batch, tokens, width = x.shape
    flat = x.reshape(layers, batch * tokens, width).to(weight.dtype)
    return torch.baddbmm(bias[:, None], flat, weight).view(layers, batch, tokens, -1)
