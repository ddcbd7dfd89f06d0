"""Tables of images: CSV or Parquet with the columns path and label, and optionally split and origin."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlopt import registry
from tlopt.errors import ImagesError, reason, suggestion
from tlopt.images.parts import SPLITS, Split
from tlopt.reading.files import TABLE_LIMIT, IrregularFileError, expect_regular

SUFFIXES = (".csv", ".parquet")
COLUMNS = ("path", "label", "split", "origin")
_UTF8 = "Save it as CSV in UTF-8."

# What folders and manifests may call a part, in lower case.
PARTS: dict[str, Split] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image of a manifest.

    Args:
        path: Relative to the manifest's folder, or absolute.
        label: Name of the class.
        part: Index into `SPLITS`, or -1 where the manifest does not say.
        origin: Where the image came from, empty if unknown.
    """

    path: str
    label: str
    part: int = -1
    origin: str = ""


def is_manifest(path: Path) -> bool:
    """Return whether a path goes by the name of a manifest and is no folder."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def read(file: Path) -> list[Row]:
    """Read a manifest.

    Raises:
        ImagesError: The file is missing or no table, a column is missing, or a line is wrong: no
            path or label, an unknown split, a file that is not there or was named before.
        MissingLibraryError: pyarrow is needed and not installed.
    """
    try:
        expect_regular(file, limit=TABLE_LIMIT)
    except IrregularFileError as error:
        raise ImagesError(error.message) from error
    except OSError as error:
        raise ImagesError(f"There is no manifest at {file}.") from error
    records = _parquet(file) if file.suffix.lower() == ".parquet" else _csv(file)
    rows: list[Row] = []
    lines: dict[str, int] = {}
    for number, record in records:
        where = f"{file}, line {number}" if file.suffix.lower() == ".csv" else f"{file}, row {number}"
        row = _row(record, where)
        try:
            expect_regular(file.parent / row.path)
        except IrregularFileError as error:
            raise ImagesError(f"{where}: {row.path} {error.reason}.") from error
        except (OSError, ValueError) as error:
            raise ImagesError(
                f"{where}: there is no file {row.path}.",
                hint=f"Paths are relative to the manifest's folder, {file.parent}.",
            ) from error
        if row.path in lines:
            raise ImagesError(f"{where} names {row.path} again, after line {lines[row.path]}.")
        lines[row.path] = number
        rows.append(row)
    if not rows:
        raise ImagesError(f"The manifest {file} lists no image.", hint=_EXAMPLE)
    return rows


_EXAMPLE = "A manifest has a line for each image: path,label[,split[,origin]], for example cats/1.jpg,cat,train."


def _row(record: Mapping[str, str], where: str) -> Row:
    for column in ("path", "label"):
        if not record[column]:
            raise ImagesError(f"{where} has no {column}.", hint=_EXAMPLE)
    split = record.get("split", "").lower()
    if split and split not in PARTS:
        raise ImagesError(f"{where} names the unknown split {split!r}.", hint=suggestion(split, SPLITS))
    return Row(
        path=os.path.normpath(record["path"]),
        label=record["label"],
        part=SPLITS.index(PARTS[split]) if split else -1,
        origin=record.get("origin", ""),
    )


def _csv(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and columns; the separator is the comma, semicolon or tab of the first line."""
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front. Names of files may be any bytes; labels are text.
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            head = stream.readline()
            if "\0" in head:  # as in UTF-16, which spreadsheets call Unicode
                raise ImagesError(f"{file} cannot be read as a CSV table: line 1 is not UTF-8.", hint=_UTF8)
            stream.seek(0)
            reader = csv.reader(stream, delimiter=max(",;\t", key=head.count), strict=True)
            columns = _columns(next(reader, []), file)
            width = len(columns)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != width:
                    raise ImagesError(
                        f"{file}, line {reader.line_num} has {len(cells)} columns, the first line {width}.",
                        hint="Put a value that holds the separator between double quotes.",
                    )
                record = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
                if not all(_is_told(name, cell, file) for name, cell in record.items()):
                    raise ImagesError(
                        f"{file} cannot be read as a CSV table: line {reader.line_num} is not UTF-8.", hint=_UTF8
                    )
                yield reader.line_num, record
    except (OSError, UnicodeError, csv.Error) as error:
        raise ImagesError(f"{file} cannot be read as a CSV table: {reason(error)}.", hint=_UTF8) from error


def _is_told(column: str, cell: str, file: Path) -> bool:
    """Whether a cell is text, or the name of a file that there is: on Linux that may be any bytes."""
    try:
        cell.encode()
    except UnicodeEncodeError:
        return column == "origin" or (column == "path" and os.path.lexists(file.parent / cell))
    return True


def _parquet(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    registry.require("pyarrow.parquet")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            columns = _columns(table.schema_arrow.names, file)
            _expect_texts(table.schema_arrow, columns, file)
            used = [name for name, known in zip(table.schema_arrow.names, columns, strict=True) if known in COLUMNS]
            number = 0
            for batch in table.iter_batches(columns=used):
                for record in batch.to_pylist():
                    number += 1
                    yield (
                        number,
                        {
                            str(name).strip().lower(): "" if value is None else str(value).strip()
                            for name, value in record.items()
                        },
                    )
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ImagesError(f"{file} cannot be read as a Parquet table: {error}") from error


def _expect_texts(schema: Any, columns: Sequence[str], file: Path) -> None:
    """Refuse columns of lists, of fractions, of bytes: a path and a label are texts, or whole numbers."""
    from pyarrow import types

    for known, field in zip(columns, schema, strict=True):
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        fits = types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind) or types.is_null(kind)
        if known in COLUMNS and not fits:
            raise ImagesError(f"{file}: the column {known} must be text, got {kind}.", hint=_EXAMPLE)


def _columns(names: Sequence[str], file: Path) -> list[str]:
    columns = [str(name).strip().lower() for name in names]
    for wanted in ("path", "label"):
        if columns.count(wanted) != 1:
            found = f"its columns are {', '.join(columns)}" if any(columns) else "it is empty"
            raise ImagesError(
                f"The manifest {file} needs one column {wanted!r}; {found}.",
                hint=_EXAMPLE,
            )
    return columns


def write(file: Path, rows: Iterable[Row]) -> None:
    """Write a CSV manifest with all four columns."""
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([row.path, row.label, SPLITS[row.part] if row.part >= 0 else "", row.origin])
