"""The page that ``--help`` prints: a command's settings, and a line for each option of its groups."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

LINE_WIDTH = 110  # characters
# These groups have one option, whose settings are listed instead.
SINGLE_OPTION_GROUPS = ("device", "slurm")


def help_page(conf: Path, command: str) -> str:
    """Return the help of the command configured by ``conf/<command>.yaml``."""
    text = (conf / f"{command}.yaml").read_text(encoding="utf-8")
    purpose = _comment(text)[0].removeprefix(f"python -m pretrain.{command}: ")
    groups = groups_of(conf, command)
    parts = [f"python -m pretrain.{command} [setting=value ...]\n\n{purpose[0].upper()}{purpose[1:]}"]
    parts.append("Settings, with their defaults (??? is required):\n" + _settings(text))
    parts += [
        f"{group}.… :\n{_settings((conf / group / 'default.yaml').read_text(encoding='utf-8'))}"
        for group in groups
        if group in SINGLE_OPTION_GROUPS
    ]
    parts += [_options(conf, group) for group in groups if group not in SINGLE_OPTION_GROUPS]
    parts.append(
        "Settings within a group have a dotted path, such as recipe.learning_rate=0.01 or data.validation=0.2. "
        f"To print all values: python -m pretrain.{command} ... --cfg job. Each setting is explained in {conf}."
    )
    return "\n\n".join([*parts[:-1], textwrap.fill(parts[-1], LINE_WIDTH)])


def groups_of(conf: Path, command: str) -> list[str]:
    """Return the groups of settings from which a command's configuration takes options."""
    defaults = _defaults((conf / f"{command}.yaml").read_text(encoding="utf-8"))
    return [group for group in re.findall(r"[-{ ](?:override /)?(\w+): ", defaults) if (conf / group).is_dir()]


def _defaults(text: str) -> str:
    """Return the defaults list of a command's configuration, as text."""
    return re.search(r"^defaults:(.*?)(?=^\w)", text, flags=re.M | re.S)[1]  # type: ignore[index]


def _settings(text: str) -> str:
    """Return the settings of a configuration with their comments, as in the file."""
    body = re.sub(r"^(defaults|hydra):.*?(?=^\w|\Z)", "", text, flags=re.M | re.S)
    lines = [line for line in body.splitlines() if line and not line.startswith("#")]
    return "\n".join(f"  {line}" for line in lines) or "  none"


def _options(conf: Path, group: str) -> str:
    """Return a line for each option of a group, and the number of options in each folder below it."""
    files = sorted((conf / group).glob("*.yaml"))
    width = max(len(file.stem) for file in files) + 2
    lines = [f"  {file.stem:{width}}{line}" for file in files for line in _purpose(file, LINE_WIDTH - width - 2)]
    lines += [
        f"  {folder.name}/…: {len([*folder.glob('*.yaml')])} more, listed in {folder}"
        for folder in sorted((conf / group).iterdir())
        if folder.is_dir() and folder.name != "default_for"
    ]
    return "\n".join([f"{group}=…", *lines])


def _purpose(file: Path, width: int) -> Iterator[str]:
    """Yield the first sentence of a file's comment, or an experiment's purpose, in one line."""
    comment = " ".join(_comment(file.read_text(encoding="utf-8")))
    stated = re.search(r"Purpose\s+(.*?)\s*(?:Command\b|$)", comment)
    sentence = re.split(r"(?<!al\.)(?<=[.?])\s", stated[1] if stated else comment)[0]
    yield textwrap.shorten(sentence.rstrip("."), width, placeholder=" …")


def _comment(text: str) -> list[str]:
    """Return the lines of a file's first comment, without one that Hydra reads."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# ").rstrip())
    return lines
