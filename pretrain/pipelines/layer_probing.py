"""The story of one run: probing each depth of an assembled network."""

import time
from dataclasses import asdict
from typing import Any

import torch
from lightning_fabric import Fabric

from pretrain.data.dataset import Dataset
from pretrain.evaluation.linear_probe import probe_layers
from pretrain.pipelines.network_finetuning import label_budget
from pretrain.pipelines.pretrained_layers import stages_to_start_from, starting_network
from pretrain.pipelines.stage_training import complete_run
from pretrain.runs.run_folder import open_run
from pretrain.runs.settings import Config


def run_probe(config: Config, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    """Probe each depth of an assembled network in the folder ``config["out"]``; a complete run is left as it is.

    Returns
    -------
    dict
        The run's summary, as in summary.json.
    """
    stages = stages_to_start_from(config, data)
    folder = open_run({**config, "stages_digest": stages["digest"]}, data.digests, fabric)
    if summary := folder.summary():
        return summary
    data.record_in(folder)
    network = starting_network(config, data).to(fabric.device).to(memory_format=torch.channels_last)
    started = time.monotonic()
    with fabric.autocast():
        probes = probe_layers(network, data, labels=label_budget(config["labels"]), seed=config["seed"])
    data.record_in(folder)  # the test split was opened now
    summary = {
        "arm": "pretrained" if config["init"] == "pretrained" else "random",
        "init": config["init"],
        "stack": config["stack"]["name"],
        "labels": len(data.train) if config["labels"] == "all" else config["labels"],
        "seed": config["seed"],
        "pretrain_seconds": stages["pretrain_seconds"],
        "probe_seconds": round(time.monotonic() - started, 3),
        "depths": [asdict(each) for each in probes],
    }
    complete_run(folder, summary, fabric)
    return summary
