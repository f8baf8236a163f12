"""YAML that a folder or a user hands over: what it holds, or a line, in bounded time and memory."""

import pytest
import yaml

from pretrain import UserError
from pretrain.command_line.arguments import prepared
from pretrain.command_line.command import CONF
from pretrain.pipelines.run_settings import StageRun
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.yaml_files import GREATEST_COUNT, read_yaml


def laughs(levels):
    """Return lists of nine aliases each of the list before: 9 to the power of the levels, in a few hundred bytes."""
    lines = [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, levels + 1)]
    return "\n".join([f"a0: &a0 [{', '.join(['lol'] * 9)}]", *lines])


def written(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


HOSTILE = {
    "aliases that multiply": (laughs(12), "its aliases stand for more than 100,000 values"),
    "megabytes": ("a: [" + "1, " * 400_000 + "1]", "it has more than 1,048,576 bytes"),
    "many values": ("a: [" + "1," * GREATEST_COUNT + "1]", "more than 100,000 values"),
    "deep": ("[" * 60 + "]" * 60, "more than 50 levels"),
    "deep mappings": ("{a: " * 5_000, "more than 50 levels"),
    "very deep": ("[" * 5_000 + "]" * 5_000, "is damaged|more than 50 levels"),
    "no text": (b"a: \xff\xfe\x00", "is damaged"),
    "no YAML": ("a: [1", "is damaged"),
    "a Python object": ("a: !!python/object/apply:os.getcwd []", "is damaged"),
    "an alias of itself": ("&a [*a, *b]", "is damaged"),
    "a date out of range": ("a: 2024-99-99", "is damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_a_line(tmp_path, name):
    text, message = HOSTILE[name]
    with pytest.raises(UserError, match=message) as caught:
        read_yaml(written(tmp_path, text))
    assert len(str(caught.value).splitlines()) == 1
    assert "config.yaml" in str(caught.value)


def test_a_hostile_configuration_is_refused_wherever_one_is_read(tmp_path):
    written(tmp_path, laughs(12))
    with pytest.raises(UserError, match=r"config\.yaml is damaged"):
        RunFolder(tmp_path).config()
    for arguments in ([f"--config-dir={tmp_path}"], ["--config-dir", str(tmp_path)], ["-cd", str(tmp_path)]):
        with pytest.raises(UserError, match="its aliases stand for"):
            prepared(arguments, StageRun, CONF, "stage")


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: file.stem)
def test_what_is_read_is_what_yaml_holds(file):
    assert read_yaml(file) == yaml.safe_load(file.read_text())


def test_aliases_that_do_not_multiply_are_read(tmp_path):
    file = written(tmp_path, laughs(3))
    assert read_yaml(file) == yaml.safe_load(file.read_text())
