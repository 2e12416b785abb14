"""Generated and mutated headers and indexes, and the corpus of those that once were not refused properly."""

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.convert.readers import check_header, check_index

CORPUS = Path(__file__).parent / "corpus"
FEW, MANY = 300, 10_000
VALID = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "c": {"dtype": "U8", "shape": [0], "data_offsets": [32, 32]},
}
NUMBERS = st.one_of(
    st.integers(-3, 40), st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64, 10**30]), st.floats(), st.booleans()
)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.one_of(st.sampled_from(["F32", "BF16", "U8", "F4", "I64", "BOOL", "C64"]), ANYTHING),
        "shape": st.one_of(st.lists(NUMBERS, max_size=4), ANYTHING),
        "data_offsets": st.one_of(st.lists(NUMBERS, max_size=3), ANYTHING),
        "more": ANYTHING,
    },
)
HEADERS = st.dictionaries(
    st.one_of(st.sampled_from(["a", "b", "__metadata__"]), st.text(max_size=3)),
    st.one_of(ENTRIES, st.sampled_from(list(VALID.values())), ANYTHING),
    max_size=4,
)
EDITS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 255), st.integers(0, 2)), min_size=1, max_size=6
)
FILES = ["model-1.safetensors", "model-2.safetensors"]
NAMES = st.one_of(
    st.sampled_from(
        [*FILES, "../model-1.safetensors", "/etc/passwd", "x/..", "", ".", "model-1.safetensors\0"]
    ),
    ANYTHING,
)
INDEXES = st.one_of(
    st.fixed_dictionaries(
        {
            "weight_map": st.dictionaries(
                st.one_of(st.sampled_from("abc"), st.text(max_size=3)), NAMES, max_size=4
            )
        }
    ),
    ANYTHING,
)


def as_file(header: bytes, length: int | None = None, data: int = 32) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(data)


def mutate(content: bytes, edits: list[tuple[int, int, int]]) -> bytes:
    changed = bytearray(content)
    for place, value, kind in edits:
        place %= len(changed) + 1
        changed[place : place + (kind != 0)] = bytes([value]) if kind < 2 else b""
    return bytes(changed)


def headers(draw: st.DrawFn) -> bytes:
    """A whole file: built from values that are nearly right, or a right one with bytes changed."""
    if draw(st.booleans()):
        return mutate(as_file(json.dumps(VALID).encode()), draw(EDITS))
    text = json.dumps(draw(HEADERS), ensure_ascii=draw(st.booleans()))
    length = draw(st.one_of(st.none(), st.integers(0, 2**64 - 1)))
    return as_file(text.encode("utf-8", "surrogatepass"), length, draw(st.integers(0, 40)))


def indexes(draw: st.DrawFn) -> bytes:
    right = json.dumps({"weight_map": {"a": FILES[0], "b": FILES[1]}}).encode()
    if draw(st.booleans()):
        return mutate(right, draw(EDITS))
    return json.dumps(draw(INDEXES)).encode("utf-8", "surrogatepass")


def search(strategy: st.SearchStrategy[bytes], check: Any, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(content: bytes) -> None:
        check(content, folder)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number, name in enumerate(("a", "b")):
            header = json.dumps({name: {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}).encode()
            (folder / FILES[number]).write_bytes(as_file(header, data=8))
        run()


@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.thorough)])
def test_any_header(examples: int) -> None:
    search(st.composite(headers)(), check_header, examples)


@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.thorough)])
def test_any_index(examples: int) -> None:
    search(st.composite(indexes)(), check_index, examples)


def test_valid_ones_are_accepted(tmp_path: Path) -> None:
    assert check_header(as_file(json.dumps(VALID).encode()), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    assert check_index(
        json.dumps({"weight_map": dict.fromkeys("abc", "model-1.safetensors")}).encode(), tmp_path
    )


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_corpus(path: Path, tmp_path: Path) -> None:
    check = check_header if path.suffix == ".safetensors" else check_index
    assert not check(path.read_bytes(), tmp_path)
