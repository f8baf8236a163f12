"""Run a linear probe of each depth of an assembled network."""

import time
from dataclasses import asdict
from typing import Any

import torch
from lightning_fabric import Fabric

from pretrain.data.dataset import Dataset
from pretrain.evaluation.linear_probe import probe_layers
from pretrain.pipelines.run_settings import ProbeRun
from pretrain.pipelines.stage_training import complete_run, summary_of_complete
from pretrain.pipelines.starting_layers import StartingLayers, starting_layers, starting_network
from pretrain.runs.profiling import timed
from pretrain.runs.run_folder import RunFolder, open_run


def run_probe(settings: ProbeRun, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    """Probe each depth of an assembled network in the folder ``settings.out``; a complete run is left as it is.

    Returns
    -------
    dict
        Contents of summary.json.
    """
    with timed("preparation"):
        layers = starting_layers(settings, data)
    with open_run(settings, {**data.digests, "stages_digest": layers.digest}, fabric) as folder:
        return summary_of_complete(settings, folder) or _probe(settings, data, fabric, folder, layers)


def _probe(
    settings: ProbeRun, data: Dataset, fabric: Fabric, folder: RunFolder, layers: StartingLayers
) -> dict[str, Any]:
    """Fit the probes and return the summary."""
    data.record_in(folder)
    with timed("preparation"):
        network = starting_network(settings, data, layers).to(fabric.device).to(memory_format=torch.channels_last)
    started = time.monotonic()
    with fabric.autocast():
        probes = probe_layers(network, data, labels=settings.label_budget, seed=settings.seed_of_labels)
    # Opening the test split may have added skipped files.
    data.record_in(folder)
    summary = {
        "arm": "pretrained" if settings.pretrained else "random",
        "init": settings.init,
        "stack": settings.stack.name,
        "labels": len(data.train) if settings.labels == "all" else settings.labels,
        "seed": settings.seed,
        "pretrain_seconds": layers.seconds,
        "probe_seconds": round(time.monotonic() - started, 3),
        "depths": [asdict(each) for each in probes],
    }
    return complete_run(folder, summary, fabric)
