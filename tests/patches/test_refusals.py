"""Every backend that cannot serve a call says why, so that another does."""

from types import SimpleNamespace

import pytest
import torch

from patches.attention import flash, flex, fused
from patches.attention.scoring import Scoring
from patches.frame import Frame, Step

HEADS, WINDOW, SINKS = 4, 8, 3
PADDED = torch.tensor([3])
FLASH = [
    ({"dtype": torch.float32}, "float16 or bfloat16, not float32"),
    ({"dim": 264}, "head_dim=264 is above 256"),
    ({"dim": 20}, None),
    ({"starts": PADDED, "past": 5}, "rows are padded"),
    ({"starts": PADDED}, None),
    ({"dropout": 0.1}, "no attention dropout"),
    ({"softcap": 30.0}, "no softcap"),
    ({"sink_logits": torch.zeros(HEADS), "sink_query": torch.zeros(1, HEADS, 40, 64)}, None),
    ({}, None),
]
FUSED = [
    ({"device": "mps"}, "the tensors are on mps"),
    ({"dtype": torch.float64}, "not float64"),
    ({"dim": 264}, "head_dim=264 is above 256"),
    ({"dim": 256, "dtype": torch.float32}, "head_dim=256 is above 128"),
    ({"tokens": 1, "past": 9}, "slots of a cache"),
    ({"tokens": 1, "past": 9, "window": None}, None),
    ({"starts": PADDED, "past": 5}, "rows are padded"),
    ({"starts": PADDED}, None),
    ({"dropout": 0.1}, "no attention dropout"),
    ({"scale": -1.0}, "a scale above 0, not -1.0"),
    ({}, None),
]
FLEX_ON_A_CPU = [
    ({"dtype": torch.float64}, "not float64"),
    ({"dim": 8}, "head_dim=8 is below 16"),
    ({"starts": PADDED}, "rows are padded"),
    ({"dropout": 0.1}, "no attention dropout"),
    ({"past": 9, "tokens": 1}, "no blocks to skip"),
    ({"sink_logits": torch.zeros(HEADS)}, "no log-sum-exp"),
    ({"requires_grad": True}, "no backward"),
    ({"softcap": 5.0}, None),
]
QUERY = {"device": "cuda", "dtype": torch.bfloat16, "dim": 64, "requires_grad": False}
CALLS = [
    *((flash, QUERY, change, said) for change, said in FLASH),
    *((fused, QUERY, change, said) for change, said in FUSED),
    *(
        (flex, QUERY | {"device": "cpu", "dtype": torch.float32}, change, said)
        for change, said in FLEX_ON_A_CPU
    ),
]


def name(value: object) -> str | None:
    return getattr(value, "__name__", None) or (str(value) if isinstance(value, str | None) else None)


@pytest.mark.parametrize("backend,query,change,said", CALLS, ids=name)
def test_refusals_say_why(backend, query, change, said, monkeypatch):
    monkeypatch.setattr(flex, "_no_compiler", lambda device: None)
    call = {"tokens": 40, "past": 0, "starts": None, "window": WINDOW, "scale": 0.25} | query | change
    tokens = call.pop("tokens")
    asked = SimpleNamespace(
        device=torch.device(call.pop("device")),
        dtype=call.pop("dtype"),
        shape=(1, HEADS, tokens, call.pop("dim")),
        requires_grad=call.pop("requires_grad"),
    )
    frame = Frame(Step(call.pop("past"), call.pop("starts")), tokens, call.pop("window"), SINKS)
    reason = backend.refusal(asked, frame, Scoring(**call))
    assert reason is None if said is None else said in reason
