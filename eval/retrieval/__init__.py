"""The kinds of retrieval, in the order of the report. A new one is a file here and a line below."""

from eval.retrieval.common_words import COMMON_WORDS
from eval.retrieval.kind import Kind
from eval.retrieval.linked_detail import LINKED_DETAIL
from eval.retrieval.multi_key import MULTI_KEY
from eval.retrieval.multi_query import MULTI_QUERY
from eval.retrieval.multi_value import MULTI_VALUE
from eval.retrieval.needle import SINGLE_NEEDLE
from eval.retrieval.passkey import PASSKEY
from eval.retrieval.recurring_key import RECURRING_KEY
from eval.retrieval.variable_tracking import VARIABLE_TRACKING

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        SINGLE_NEEDLE,
        MULTI_KEY,
        MULTI_VALUE,
        MULTI_QUERY,
        PASSKEY,
        VARIABLE_TRACKING,
        COMMON_WORDS,
        LINKED_DETAIL,
        RECURRING_KEY,
    )
}


def kind_table() -> list[str]:
    """Write the README's table of kinds, in Markdown."""
    return ["| kind | what is hidden and asked |", "|---|---|"] + [
        f"| `{kind.name}` | {kind.what} |" for kind in KINDS.values()
    ]
