"""Kinds of stage, one file for each."""

from pretrain.stages.base import AutogradStage, Layer, Metrics, Stage
from pretrain.stages.conv_autoencoder import ConvAutoencoder
from pretrain.stages.conv_rbm import ConvRBM

__all__ = ["AutogradStage", "ConvAutoencoder", "ConvRBM", "Layer", "Metrics", "Stage"]
