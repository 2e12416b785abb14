"""The language of ``--global-layers``."""

import pytest

from convert import ConvertError
from convert.global_layers import parse_global_layers


@pytest.mark.parametrize(
    ("spec", "layers", "expected"),
    [
        ("none", 4, ()),
        ("all", 3, (0, 1, 2)),
        ("every:4", 12, (3, 7, 11)),
        ("every:4", 6, (3,)),
        ("every:1", 2, (0, 1)),
        ("first:2,last:2", 6, (0, 1, 4, 5)),
        ("0,5,10", 12, (0, 5, 10)),
        (" 5 , first:1, 5", 6, (0, 5)),
        ("every:3,last:1", 7, (2, 5, 6)),
    ],
)
def test_specifications(spec: str, layers: int, expected: tuple[int, ...]) -> None:
    assert parse_global_layers(spec, layers) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "cannot read ''"),
        ("every", "cannot read 'every'"),
        ("every:0", "from 1 to"),
        ("every:9", "from 1 to the model's 8 layers"),
        ("middle:2", "cannot read 'middle:2'"),
        ("8", "layers 0 to 7"),
        ("-1", "cannot read '-1'"),
        ("none,3", "stand alone"),
        ("1,,2", "cannot read ''"),
    ],
)
def test_errors_say_what_is_allowed(spec: str, message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        parse_global_layers(spec, 8)
