import os
import pickle
import struct

import pytest
import torch

from pretrain import UserError
from pretrain.errors import DamagedFileError
from pretrain.runs.sealed_files import digest_of_values, read_config, read_json, write_config, write_json
from pretrain.runs.tensor_files import load_state, load_with_digest, save_state

STATE = {
    "weights": torch.linspace(-1, 1, 24).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "counts": torch.tensor([[3, 2**40]]),
    "mask": torch.tensor([True, False]),
    "scalar": torch.tensor(0.1, dtype=torch.float64),
    "none": torch.empty(0, 5),
    "plain": {"step": 7, "best": None, "loss": 0.1, "worst": float("inf"), "name": "é", "list": [1, [torch.ones(2)]]},
}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_tensors_and_plain_values_come_back_as_they_were(tmp_path):
    digest = save_state(tmp_path / "state", STATE)
    loaded, read = load_with_digest(tmp_path / "state")
    assert same(loaded, STATE)
    assert read == digest


def test_equal_states_have_equal_files_and_others_other_digests(tmp_path):
    digests = [save_state(tmp_path / name, state) for name, state in (("a", STATE), ("b", dict(STATE)))]
    assert digests[0] == digests[1]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    for change in ({"half": STATE["half"].float()}, {"mask": STATE["mask"][None]}, {"plain": {}}, {"scalar": 0.1}):
        assert save_state(tmp_path / "c", {**STATE, **change}) != digests[0]


def test_any_changed_byte_is_noticed(tmp_path):
    file = tmp_path / "state"
    save_state(file, STATE)
    whole = file.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        try:
            loaded = load_state(file)
        except DamagedFileError as error:
            assert str(file) in str(error)  # noqa: PT017
        else:
            # Blanks that fill up the header are no content.
            assert same(loaded, STATE)


@pytest.mark.parametrize("kept", [0, 1, 8, 100, -1])
def test_a_torn_file_is_noticed(tmp_path, kept):
    file = tmp_path / "state"
    save_state(file, STATE)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DamagedFileError):
        load_state(file)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("write", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))])
def test_a_pickle_is_never_executed(tmp_path, write):
    file = tmp_path / "network.safetensors"
    write({"state": Malicious(tmp_path / "owned")}, file)
    with pytest.raises(UserError, match="is no file of tensors written by pretrain"):
        load_state(file)
    assert not (tmp_path / "owned").exists()


def header(text):
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        header(b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'),
        header(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}') + b"0000",
        header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}') + b"0000",
        header(b"[" * 100_000),
        header(b'{"__metadata__":{"pretrain":"' + b"[" * 100_000 + b'"}}'),
    ],
    ids=["gigantic header", "gigantic tensor", "negative shape", "no digest", "deep header", "deep values"],
)
def test_a_hostile_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(DamagedFileError) as error:
        load_state(tmp_path / "state")
    assert len(str(error.value).splitlines()) == 1


VALUES = {"a": 1, "b": [0.1, None, True, "é"], "c": {"d": {}}, "number": 2.5e-3}


@pytest.mark.parametrize(("write", "read"), [(write_json, read_json), (write_config, read_config)])
def test_small_files_come_back_and_any_changed_byte_is_noticed(tmp_path, write, read):
    file = tmp_path / "file"
    write(file, VALUES)
    assert read(file) == VALUES
    whole = file.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        try:
            values = read(file)
        except DamagedFileError as error:
            assert str(file) in str(error)  # noqa: PT017
        else:
            # The content is whole; only the name of its digest is not.
            values = {key: value for key, value in values.items() if key in VALUES}
            assert values == VALUES


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest_of_values({"a": 1, "b": 2}) == digest_of_values({"b": 2, "a": 1})


def test_files_of_older_versions_have_no_digest(tmp_path):
    (tmp_path / "file").write_text('{"a": 1}')
    assert read_json(tmp_path / "file") == read_config(tmp_path / "file") == {"a": 1}
