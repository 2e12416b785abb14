"""Feed the readers what a coverage-guided fuzzer finds; not part of the test run.

pip install atheris && python -m tests.convert.fuzz_with_atheris -runs=100000

A crash is written to the working folder; shrink it, put it into tests/convert/corpus, and make its test pass.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["convert", "json"]):
    from tests.convert.readers import check_header, check_index

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Start the fuzzer from the corpus; its options are those of libFuzzer."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)

        def read(content: bytes) -> None:
            check = check_index if content[:1] == b"{" else check_header
            check(content, folder)

        atheris.Setup([*sys.argv, str(CORPUS)], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
