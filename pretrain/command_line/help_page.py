"""The page that ``--help`` prints: a command's settings, and the options of each group with a line on each."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

WIDTH = 110  # characters of a line
FIXED = ("device",)  # groups with one option, whose settings are listed instead


def help_page(conf: Path, command: str) -> str:
    """Return the help of the command that ``conf/<command>.yaml`` configures."""
    text = (conf / f"{command}.yaml").read_text()
    purpose = _comment(text)[0].removeprefix(f"python -m pretrain.{command}: ")
    groups = [group for group in re.findall(r"[-{ ](?:override /)?(\w+): ", _defaults(text)) if (conf / group).is_dir()]
    parts = [f"python -m pretrain.{command} [setting=value ...]\n\n{purpose[0].upper()}{purpose[1:]}"]
    parts.append("Settings, with their defaults (??? has to be given):\n" + _settings(text))
    parts += [
        f"{group}.… :\n{_settings((conf / group / 'default.yaml').read_text())}" for group in groups if group in FIXED
    ]
    parts += [_options(conf, group) for group in groups if group not in FIXED]
    parts.append(
        "Settings within a group have a dotted path, such as recipe.learning_rate=0.01 or data.validation=0.2. "
        f"All of them, as they stand: python -m pretrain.{command} ... --cfg job. What each is for: {conf}."
    )
    return "\n\n".join([*parts[:-1], textwrap.fill(parts[-1], WIDTH)])


def _defaults(text: str) -> str:
    """Return the defaults list of a command's configuration, as text."""
    return re.search(r"^defaults:(.*?)(?=^\w)", text, flags=re.M | re.S)[1]  # type: ignore[index]


def _settings(text: str) -> str:
    """Return the settings of a configuration, with their comments, as they stand in the file."""
    body = re.sub(r"^(defaults|hydra):.*?(?=^\w|\Z)", "", text, flags=re.M | re.S)
    lines = [line for line in body.splitlines() if line and not line.startswith("#")]
    return "\n".join(f"  {line}" for line in lines) or "  none"


def _options(conf: Path, group: str) -> str:
    """Return the options of a group, a line each, and how many more lie in folders below it."""
    files = sorted((conf / group).glob("*.yaml"))
    width = max(len(file.stem) for file in files) + 2
    lines = [f"  {file.stem:{width}}{line}" for file in files for line in _purpose(file, WIDTH - width - 2)]
    lines += [
        f"  {folder.name}/…: {len([*folder.glob('*.yaml')])} more, listed in {folder}"
        for folder in sorted((conf / group).iterdir())
        if folder.is_dir() and folder.name != "default_for"
    ]
    return "\n".join([f"{group}=…", *lines])


def _purpose(file: Path, width: int) -> Iterator[str]:
    """Go through the first sentence of a file's comment, in one line; of an experiment, its purpose."""
    comment = " ".join(_comment(file.read_text()))
    stated = re.search(r"Purpose\s+(.*?)\s*(?:Command\b|$)", comment)
    sentence = re.split(r"(?<!al\.)(?<=[.?])\s", stated[1] if stated else comment)[0]
    yield textwrap.shorten(sentence.rstrip("."), width, placeholder=" …")


def _comment(text: str) -> list[str]:
    """Return the lines of the comment that a file begins with, but for one that Hydra reads."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# ").rstrip())
    return lines
