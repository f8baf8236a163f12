"""Kinds of stage, one file for each."""

from pretrain.stages.base import AutogradStage, Metrics, Stage
from pretrain.stages.contrastive import Contrastive
from pretrain.stages.conv_autoencoder import ConvAutoencoder
from pretrain.stages.conv_rbm import ConvRBM
from pretrain.stages.kmeans import KMeans
from pretrain.stages.layer import Layer
from pretrain.stages.soft_hebb import SoftHebb

__all__ = [
    "AutogradStage",
    "Contrastive",
    "ConvAutoencoder",
    "ConvRBM",
    "KMeans",
    "Layer",
    "Metrics",
    "SoftHebb",
    "Stage",
]
