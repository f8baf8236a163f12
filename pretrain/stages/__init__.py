"""Kinds of stage, one file for each."""

from pretrain.stages.base import AutogradStage, Layer, Metrics, Stage
from pretrain.stages.conv_autoencoder import ConvAutoencoder

__all__ = ["AutogradStage", "ConvAutoencoder", "Layer", "Metrics", "Stage"]
