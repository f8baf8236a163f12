"""Greedy layer-wise pretraining of ConvNets, and a fair comparison with training from scratch."""

from pretrain.comparison.workers import compare
from pretrain.data.cifar10 import load_cifar10
from pretrain.data.dataset import Dataset, Labelled
from pretrain.data.digits import load_digits
from pretrain.data.image_folder import load_folder, load_unlabelled
from pretrain.errors import UserError
from pretrain.evaluation.gradient_check import check_gradients
from pretrain.evaluation.linear_probe import Probe, probe_layers
from pretrain.evaluation.predictions import Evaluation, evaluate
from pretrain.network.convnet import ConvNet
from pretrain.network.layer import Layer
from pretrain.network.preprocessing import Standardize
from pretrain.network.shapes import layer_rows, output_size
from pretrain.network.whitening import Whiten
from pretrain.reporting.html_report import write_report
from pretrain.reporting.side_by_side import write_side_by_side
from pretrain.runs.device import Device
from pretrain.runs.run_folder import RunFolder
from pretrain.stages.assembly import assemble
from pretrain.stages.base import AutogradStage, Stage
from pretrain.stages.contrastive import Contrastive
from pretrain.stages.conv_autoencoder import ConvAutoencoder
from pretrain.stages.conv_rbm import ConvRBM
from pretrain.stages.kmeans import KMeans
from pretrain.stages.soft_hebb import SoftHebb
from pretrain.stages.stack import Stack
from pretrain.training.finetuning import Result, finetune_network
from pretrain.training.greedy import fit_stage, fit_stages
from pretrain.training.recipes import Recipe, Training

__all__ = [
    "AutogradStage",
    "Contrastive",
    "ConvAutoencoder",
    "ConvNet",
    "ConvRBM",
    "Dataset",
    "Device",
    "Evaluation",
    "KMeans",
    "Labelled",
    "Layer",
    "Probe",
    "Recipe",
    "Result",
    "RunFolder",
    "SoftHebb",
    "Stack",
    "Stage",
    "Standardize",
    "Training",
    "UserError",
    "Whiten",
    "assemble",
    "check_gradients",
    "compare",
    "evaluate",
    "finetune_network",
    "fit_stage",
    "fit_stages",
    "layer_rows",
    "load_cifar10",
    "load_digits",
    "load_folder",
    "load_unlabelled",
    "output_size",
    "probe_layers",
    "write_report",
    "write_side_by_side",
]
