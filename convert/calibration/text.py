"""The calibration text: a file or a data set, as rows of tokens of one length."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convert.errors import ConvertError

PLAIN = (".txt", ".md", ".text")
TABLES = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
COLUMN = "text"
CHUNK_CHARACTERS = 1 << 16
LONGEST_ROW = 512


@dataclass(frozen=True)
class CalibrationText:
    """Rows of tokens, what they came from, and a digest of them.

    Args:
        name: As the user gave it.
        rows: ``[R, T]`` token ids.
        digest: SHA-256 of the ids.
    """

    name: str
    rows: Tensor
    digest: str

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.rows.numel()


def read_text(spec: str, folder: Path, tokens: int, longest: int, batch: int) -> CalibrationText:
    """Read a calibration text with the tokenizer of a checkpoint.

    Args:
        spec: A file (``.txt``, ``.jsonl``, ``.parquet``, ``.csv``), which ``:column`` may follow, or
            ``DATASET[:config][:split][:column]``.
        folder: The checkpoint.
        tokens: How many tokens to read.
        longest: Positions the model was made for.
        batch: Rows that are run at once; only whole batches are kept.

    Returns:
        The rows. Each begins as the tokenizer begins a text; documents follow one another.

    Raises:
        ConvertError: there is no such file or data set, the checkpoint has no tokenizer, or the text is
            shorter than one batch of rows.
    """
    tokenizer = _open_tokenizer(folder)
    length = min(longest, LONGEST_ROW)
    start = _start_of_text(tokenizer)
    per_row = length - len(start)
    wanted = max(tokens // length, 1)
    ids: list[int] = []
    for part in _parts(spec):
        ids += tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) >= wanted * per_row:
            break
    count = min(len(ids) // per_row, wanted) // batch * batch
    if count == 0:
        raise ConvertError(
            f"calibrate={spec!r} gives {len(ids)} tokens, less than one batch of {batch} rows of {length} "
            "(give more text or a smaller --calibrate-batch, and at least that many --calibrate-tokens)"
        )
    rows = torch.tensor([start + ids[row * per_row : (row + 1) * per_row] for row in range(count)])
    return CalibrationText(spec, rows, f"sha256:{hashlib.sha256(rows.numpy().tobytes()).hexdigest()}")


def _open_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    # Each kind of tokenizer fails in its own way; all mean that this folder has none that can be used.
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise ConvertError(
            f"calibration needs the checkpoint's tokenizer, which does not load: {why}"
        ) from error


def _start_of_text(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer puts before every text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    marked = tokenizer("a")["input_ids"]
    before = marked[: len(marked) - len(plain)]
    return list(before) if marked[len(before) :] == plain else []


def _parts(spec: str) -> Iterator[str]:
    path, _, column = (spec, "", "") if Path(spec).exists() else spec.rpartition(":")
    file = Path(path).expanduser() if path else Path(spec).expanduser()
    if file.is_dir():
        raise ConvertError(f"calibrate={spec!r} is a folder; give a file or a data set")
    if file.is_file():
        yield from _file_parts(file, column or COLUMN, spec)
        return
    if {Path(spec).suffix, file.suffix} & {*PLAIN, *TABLES} or spec.startswith((".", "/", "~")):
        raise ConvertError(f"calibrate={spec!r} does not exist")
    yield from _dataset_parts(spec)


def _file_parts(file: Path, column: str, spec: str) -> Iterator[str]:
    if file.suffix in TABLES:
        yield from _column(
            _load(spec, TABLES[file.suffix], data_files=str(file), split="train"), column, spec
        )
        return
    if file.suffix not in PLAIN:
        allowed = ", ".join((*PLAIN, *TABLES))
        raise ConvertError(f"calibrate={spec!r} has an ending that is not known; allowed: {allowed}")
    try:
        with file.open(encoding="utf-8") as reader:
            while part := reader.read(CHUNK_CHARACTERS):
                # Up to the end of the line, so that no word is cut in two.
                yield part + reader.readline()
    except UnicodeDecodeError as error:
        raise ConvertError(f"calibrate={spec!r} is not UTF-8 text: {error.reason}") from error


def _dataset_parts(spec: str) -> Iterator[str]:
    name, config, split, column = ([*spec.split(":"), "", "", ""])[:4]
    if spec.count(":") > 3:
        raise ConvertError(
            f"calibrate={spec!r} has too many parts; allowed: DATASET[:config][:split][:column]"
        )
    arguments = [name, config] if config else [name]
    yield from _column(
        _load(spec, *arguments, split=split or "train", streaming=True), column or COLUMN, spec
    )


def _load(spec: str, *arguments: str, **options: Any) -> Iterator[dict[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    try:
        yield from datasets.load_dataset(*arguments, **options)
    # The library raises its own, the hub client's and the parsers' errors; all mean: no text.
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConvertError(f"calibrate={spec!r} could not be read: {why}") from error


def _column(rows: Iterator[dict[str, Any]], column: str, spec: str) -> Iterator[str]:
    for row in rows:
        if not isinstance(row.get(column), str):
            raise ConvertError(
                f"calibrate={spec!r} has no text in column {column!r}; its columns: {', '.join(row)}"
            )
        yield row[column] + "\n\n"
