"""A table of labelled image files: its classes can be named without opening an image."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.data.class_folders import class_order
from pretrain.errors import UserError
from pretrain.runs.typed_settings import gathered

# predict and split.csv call the label "class".
LABEL = ("label", "class")
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16


@dataclass(frozen=True)
class LabelTable:
    """What a table says.

    Attributes
    ----------
    path : Path
        File of the table.
    base : Path
        Folder that its files are relative to.
    files, labels : list of str
        File and class of each image, in the order of the files.
    splits : list of str, optional
        "train", "validation" or "test" for each; None where the table has no such column.
    lines : list of int
        Line of each in the table.
    """

    path: Path
    base: Path
    files: list[str]
    labels: list[str]
    splits: list[str] | None
    lines: list[int]

    @property
    def classes(self) -> list[str]:
        """The classes in their order."""
        return class_order({*self.labels})

    @property
    def paths(self) -> list[str]:
        """Where each file is."""
        return [os.path.join(self.base, file).removeprefix(f".{os.sep}") for file in self.files]

    def require_files(self) -> None:
        """Raise a `UserError` if files are missing."""
        missing = [k for k, path in enumerate(self.paths) if not os.path.lexists(path)]
        if missing:
            first = min(missing, key=lambda k: self.lines[k])
            raise UserError(
                f"{self.path}, line {self.lines[first]}: there is no file {self.paths[first]}"
                f"{_and_more(missing, 'missing')}: correct the table, or give the folder of its files as data.root."
            )


def read_label_table(table: str | Path, root: str | Path | None = None) -> LabelTable:
    """Read a CSV file with the columns file, label (or class), and perhaps split; other columns are not read.

    Parameters
    ----------
    table : str or Path
        The file, in UTF-8, with commas, semicolons or tabs between the columns.
    root : str or Path, optional
        Folder that the files are relative to; that of the table by default.

    Raises
    ------
    UserError
        With a line for each kind of problem.
    """
    path = Path(os.path.expanduser(table))
    columns, rows = _parsed(path)
    label = next((name for name in LABEL if name in columns), LABEL[0])
    if lacking := [name for name in ("file", label) if name not in columns]:
        raise UserError(
            f"{path} has no column {' and no column '.join(lacking)}, but {', '.join(columns) or 'no columns at all'}: "
            "its first line must name the columns file, label and perhaps split."
        )
    if not rows:
        raise UserError(f"{path} lists no files: give a line for each image.")
    rows = sorted(rows, key=lambda row: row[1]["file"].replace(os.sep, "\0"))
    lines = [line for line, _ in rows]
    files = [os.path.normpath(row["file"]) if row["file"] else "" for _, row in rows]
    labels = [row[label] for _, row in rows]
    splits = [row["split"] for _, row in rows] if "split" in columns else None
    with gathered() as problems:
        problems += (f"{path}, {each}" for each in _problems(lines, files, labels, splits))
    base = Path(os.path.expanduser(root)) if root is not None else path.parent
    return LabelTable(path, base, files, labels, splits and [SPLITS[name] for name in splits], lines)


def _problems(
    lines: Sequence[int], files: Sequence[str], labels: Sequence[str], splits: Sequence[str] | None
) -> Iterator[str]:
    """Yield a line for each kind of problem, which names its first place in the table."""
    counts = Counter(files)

    def told(wrong: list[int], what: str, advice: str) -> Iterator[str]:
        if wrong:
            first = min(wrong, key=lambda k: lines[k])
            text = what.format(file=files[first], split=splits[first] if splits else "")
            yield f"line {lines[first]}: {text}{_and_more(wrong, 'such lines')}: {advice}."

    everywhere = range(len(files))
    yield from told([k for k in everywhere if not files[k]], "no file is named", "name one, or remove the line")
    yield from told(
        [k for k in everywhere if not labels[k]],
        "the label is empty",
        "give one, or remove the line and add the file's folder to data.unlabelled",
    )
    repeated = sorted((k for k in everywhere if files[k] and counts[files[k]] > 1), key=lambda k: lines[k])
    seen = {files[k]: k for k in reversed(repeated)}
    again = [k for k in repeated if k != seen[files[k]]]
    yield from told(again, "{file} is listed a second time", "list each file once")
    unknown = [k for k in everywhere if splits and splits[k] not in SPLITS]
    yield from told(unknown, "there is no split {split!r}", f"give one of {', '.join(SPLITS)}")
    if splits and not unknown:
        for name in ("train", "test"):
            if name not in splits:
                yield f"column split: no image is marked {name}: mark some, or give data.test without such a column."
    if len({*labels}) == 1 and labels[0]:
        yield f"all labels: there is only one class ({labels[0]}): give two or more."


def _and_more(wrong: Sequence[int], what: str) -> str:
    return f" (the first of {len(wrong):,} {what})" if len(wrong) > 1 else ""


def _parsed(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the names of the columns, and each row by them with its line."""
    lines = _text(path).splitlines(keepends=True)
    delimiter = next((mark for mark in ",;\t" if lines and "file" in _cells(lines[0], mark)), ",")
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True, restval="")
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        rows = [(reader.line_num, {name: str(value).strip() for name, value in row.items() if name}) for row in reader]
    except csv.Error as error:
        line = min(reader.line_num + 1, len(lines))
        raise UserError(f"{path}, line {line}: it is no CSV ({error}): mend it.") from None
    return columns, rows


def _cells(line: str, mark: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(mark)]


def _text(path: Path) -> str:
    """Return the text of a table."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"data.table={path} is missing: give a CSV file with the columns file and label.") from None
    except OSError as error:
        raise UserError(f"data.table={path} cannot be read ({error.strerror}): give a CSV file.") from None
    advice = "save it as CSV in UTF-8"
    if content.startswith(BYTE_ORDER_MARKS):
        raise UserError(f"{path} is in UTF-16: {advice}.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: it is not in UTF-8: {advice}.") from None
