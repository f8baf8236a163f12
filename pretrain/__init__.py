"""Greedy layer-wise pretraining of ConvNets, and a fair comparison with training from scratch."""

from pretrain.comparison import compare
from pretrain.data import Dataset, Labelled, load_cifar10, load_digits, load_folder, load_unlabelled
from pretrain.device import Device
from pretrain.errors import UserError
from pretrain.evaluation import Evaluation, Probe, evaluate, probe
from pretrain.finetuning import Finetuning, Result, finetune
from pretrain.gradients import check_gradients
from pretrain.greedy import fit_stage, fit_stages
from pretrain.network import ConvNet, assemble
from pretrain.preprocessing import Standardise, Whiten
from pretrain.reporting import write_report, write_side_by_side
from pretrain.runs import RunFolder
from pretrain.stack import Stack
from pretrain.stages import AutogradStage, Contrastive, ConvAutoencoder, ConvRBM, KMeans, Layer, SoftHebb, Stage
from pretrain.training import Optimisation
from pretrain.volume import layer_rows, output_size

__all__ = [
    "AutogradStage",
    "Contrastive",
    "ConvAutoencoder",
    "ConvNet",
    "ConvRBM",
    "Dataset",
    "Device",
    "Evaluation",
    "Finetuning",
    "KMeans",
    "Labelled",
    "Layer",
    "Optimisation",
    "Probe",
    "Result",
    "RunFolder",
    "SoftHebb",
    "Stack",
    "Stage",
    "Standardise",
    "UserError",
    "Whiten",
    "assemble",
    "check_gradients",
    "compare",
    "evaluate",
    "finetune",
    "fit_stage",
    "fit_stages",
    "layer_rows",
    "load_cifar10",
    "load_digits",
    "load_folder",
    "load_unlabelled",
    "output_size",
    "probe",
    "write_report",
    "write_side_by_side",
]
