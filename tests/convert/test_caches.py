"""The table of cache policies that ``convert`` keeps is the one that ``patches`` obeys."""

from dataclasses import asdict
from itertools import product

import pytest

from convert.caches import POLICIES, KvCache, parse_cache, serving
from convert.caches.policy import KINDS, Layer
from convert.errors import ConvertError
from patches.cache.policies import POLICIES as OBEYED
from patches.cache.policies import KvCache as ObeyedKvCache
from patches.cache.policies import parse as parse_obeyed
from patches.cache.policies.policy import Place, Tokens
from patches.policy import PolicyError

VALUES = (
    -1,
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    32,
    33,
    64,
    100,
    128,
    1024,
    "64MiB",
    "1.5 KiB",
    "0B",
    "64",
    "--5",
    "²",
    "x",
    "",
)
"""What a setting is tried with: at and around what is allowed, and nonsense."""
WORDS = ("sum", "mean", "prompt", "calibration", "rms", "token", "channel")
LENGTHS = (
    1,
    2,
    5,
    31,
    32,
    33,
    63,
    64,
    65,
    100,
    127,
    128,
    129,
    192,
    193,
    1000,
    1024,
    4095,
    4096,
    5000,
    131072,
)
SHAPES = [
    Layer(*shape, *window, alike)
    for shape in ((8, 128, 2), (1, 64, 2), (3, 12, 4), (2, 256, 2))
    for window in ((None, 0), (1, 0), (64, 4), (1000, 3))
    for alike in (1, 5)
]
NAMED = pytest.mark.parametrize("name", POLICIES)


def specs(name):
    """Every setting of a policy with every value, alone and with a few of another."""
    defaults = POLICIES[name].defaults
    yield name
    for key in defaults:
        yield from (f"{name}:{key}={value}" for value in (*VALUES, *WORDS))
    for one, other in product(defaults, repeat=2):
        if one < other:
            yield from (f"{name}:{one}={a},{other}={b}" for a in (0, 4, 32, 96) for b in (0, 4, 64, 100))


def outcome(parse, spec, kind):
    """The entry of a config, or that there is none."""
    try:
        return parse(spec, kind).to_config()
    except (ConvertError, PolicyError):
        return "refused"


def allowed(name):
    """Settings that both rooms take."""
    kind = POLICIES[name].kinds[0]
    return [spec for spec in specs(name) if outcome(parse_cache, spec, kind) != "refused"]


def test_the_same_names_for_the_same_layers():
    for kind in KINDS:
        assert set(serving(kind)) == {each.name for each in OBEYED.values() if kind in each.kinds}
    assert {name for name, policy in POLICIES.items() if policy.plain} == {
        name for name, policy in OBEYED.items() if policy.exact
    }


@NAMED
def test_the_same_settings_with_the_same_defaults(name):
    assert dict(POLICIES[name].defaults) == asdict(OBEYED[name].options())
    assert POLICIES[name].summary == OBEYED[name].summary


@NAMED
def test_the_same_values_are_refused_and_written(name):
    for spec, kind in product(specs(name), KINDS):
        assert outcome(parse_cache, spec, kind) == outcome(parse_obeyed, spec, kind), spec


@NAMED
def test_what_is_written_is_read_back(name):
    kinds = POLICIES[name].kinds
    for spec in allowed(name):
        chosen = {kind: parse_cache(spec if kind in kinds else "full", kind) for kind in KINDS}
        entry = KvCache(chosen["global"], chosen["window"]).to_config()
        read = ObeyedKvCache.from_config(entry)
        assert entry == {"global": read.global_layers.to_config(), "window": read.window_layers.to_config()}
        assert [each.spec for each in chosen.values()] == [read.global_layers.spec, read.window_layers.spec]


@NAMED
def test_the_same_bytes(name):
    policy = POLICIES[name]
    for spec, layer in product(allowed(name)[:: 1 + len(allowed(name)) // 40], SHAPES):
        kind = "global" if layer.window is None else "window"
        if kind not in policy.kinds:
            continue
        ours, obeyed = parse_cache(spec, kind), parse_obeyed(spec, kind)
        place = Place(0, layer.window, layer.sinks, layer.alike)
        for tokens in LENGTHS:
            shape = Tokens(tokens, layer.kv_heads, layer.head_dim, layer.element_bytes, place)
            try:
                held = obeyed.nbytes(shape)
            except PolicyError:
                with pytest.raises(ConvertError):
                    ours.nbytes(layer, tokens)
                continue
            assert ours.nbytes(layer, tokens) == held, (spec, layer, tokens)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("int5", "did you mean 'int"),
        ("", "allowed: "),
        ("full:bits=4", "full has no bits; it has no settings"),
        ("full:", None),
        ("full:bits", "'bits' must be SETTING=VALUE"),
    ],
)
def test_what_is_wrong_is_said(spec, said):
    if said is None:
        assert parse_cache(spec, "global").plain
        return
    with pytest.raises(ConvertError, match=said):
        parse_cache(spec, "global")
