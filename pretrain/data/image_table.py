"""The user's own images, as a table lists them with their classes."""

import os
from collections.abc import Sequence

import torch

from pretrain.data.dataset import Dataset
from pretrain.data.dataset_settings import FolderData
from pretrain.data.encoded_images import image_files
from pretrain.data.label_table import LabelTable, read_label_table
from pretrain.data.leakage_check import Named
from pretrain.data.one_set import gather_one_set
from pretrain.data.skipped_files import Skipped
from pretrain.data.unlabelled_pools import decode_readable, load_pools
from pretrain.errors import UserError


def read_table(source: FolderData) -> Dataset:
    """Return the decoded images that a table lists.

    Raises
    ------
    UserError
        When something is wrong with the table, or a file of it is missing, or no image of a class can be read.
    """
    table = read_label_table(str(source.table), source.root)
    if source.test is not None and table.splits:
        raise UserError(f"data.test={source.test}: {table.path} has a column split, so leave it out.")
    if source.test is None and not table.splits:
        raise UserError(
            f"{table.path} has no column split: add one, with train and test, or set a share of the images aside for "
            "testing with data.test=0.2."
        )
    table.require_files()
    files, odd = image_files(table.paths)
    decoded = decode_readable(table.path, files, odd, source.size, source.channels, source.cache)
    rows = {path: k for k, path in enumerate(table.paths)}
    kept = [rows[path] for path in decoded.paths]
    pools, skipped = _without(*load_pools(source), table)
    numbers = {name: k for k, name in enumerate(table.classes)}
    return gather_one_set(
        source,
        table.classes,
        decoded.named,
        torch.tensor([numbers[table.labels[k]] for k in kept]),
        [table.splits[k] if table.splits else "train" for k in kept],
        test=source.test,
        base=table.base,
        pools=pools,
        skipped=[*decoded.skipped, *skipped],
    )


def _without(
    pools: Named | None, skipped: Sequence[Skipped], table: LabelTable
) -> tuple[Named | None, Sequence[Skipped]]:
    """Leave out of the pools the files that the table lists, which often labels some files of a folder of them."""
    if pools is None:
        return None, skipped
    listed = {os.path.realpath(path) for path in table.paths}
    others = torch.tensor([k for k, name in enumerate(pools.names) if os.path.realpath(name) not in listed])
    return pools.subset(others) if len(others) else None, [
        skip for skip in skipped if os.path.realpath(skip.path) not in listed
    ]
