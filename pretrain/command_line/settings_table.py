"""The tables of all settings with their ranges, generated from their declarations."""

import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from pretrain.comparison.arms import Arm
from pretrain.comparison.plan import Comparison
from pretrain.comparison.slurm_settings import Slurm
from pretrain.comparison.tuning import Tuning
from pretrain.data.dataset_settings import (
    CIFAR10Data,
    DigitsData,
    FolderData,
    HuggingFaceData,
    TorchvisionData,
    WebDatasetData,
)
from pretrain.data.view_settings import ViewSettings
from pretrain.network.layer_settings import LayerSettings
from pretrain.pipelines.run_settings import FinetuningRun, ProbeRun, StageRun
from pretrain.runs.device import Device
from pretrain.runs.setting_types import OnlyWith, in_words, split_marks, value_text
from pretrain.runs.typed_settings import declared
from pretrain.stages.kind_settings import SHIPPED
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.recipes import Recipe, Training

HEADING = "`python -m pretrain.command_line.settings_table docs/settings.md`.\n\n"
# Where the settings of a class stand in a configuration.
PLACES: dict[str, type] = {
    "pretrain.stage": StageRun,
    "pretrain.finetune": FinetuningRun,
    "pretrain.probe": ProbeRun,
    "pretrain.compare": Comparison,
    "data=digits: data.…": DigitsData,
    "data=cifar10: data.…": CIFAR10Data,
    "data=folder: data.…": FolderData,
    "data=torchvision: data.…": TorchvisionData,
    "data=webdataset: data.…": WebDatasetData,
    "data=huggingface: data.…": HuggingFaceData,
    "stack.…": StackSettings,
    "stack.stages.NAME.layer.…": LayerSettings,
    "stack.stages.NAME.training.…": Training,
    **{f"{kind}: stack.stages.NAME.…": settings for kind, settings in SHIPPED.items()},
    "Contrastive: stack.stages.NAME.views.…": ViewSettings,
    "recipe.…": Recipe,
    "tuning.…": Tuning,
    "arms.NAME.…": Arm,
    "device.…": Device,
    "slurm.…": Slurm,
}


def settings_tables() -> str:
    """Return a table in Markdown for each class of settings: names, what they may be, and their defaults in Python."""
    return "\n\n".join(f"### {place}\n\n{_table(kind)}" for place, kind in PLACES.items()) + "\n"


def _table(kind: type) -> str:
    lines = ["| setting | what it may be | default |", "|---|---|---|"]
    return "\n".join([*lines, *_rows(kind)])


def _rows(kind: type) -> Iterator[str]:
    """Yield a row for each setting of a class; blocks have tables of their own, and what is below decides channels."""
    for name, (hint, field) in declared(kind).items():
        words = in_words(hint)
        if not words.startswith("settings by name") and name != "in_channels":
            effect = [f"only with {m.other}={' or '.join(map(value_text, m.values))}" for m in _conditions(hint)]
            yield f"| `{name}` | {'; '.join([words, *effect])} | {_default(field)} |"


def _conditions(hint: Any) -> list[OnlyWith]:
    return [mark for mark in split_marks(hint)[1] if isinstance(mark, OnlyWith)]


def _default(field: Field[Any]) -> str:
    """Return the default of a setting, empty where it is required."""
    if field.default is field.default_factory is MISSING:
        return "required"
    default = field.default_factory() if field.default is MISSING else field.default  # type: ignore[operator]
    return f"`{value_text(default)}`"


def with_tables(page: str) -> str:
    """Return a page with the tables after its heading "All settings" brought up to date."""
    return page[: page.index(HEADING) + len(HEADING)] + settings_tables()


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_tables(page.read_text()))
