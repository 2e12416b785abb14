"""The families that can be converted. To add one: a record in a new file, its name in the tuple below."""

from collections.abc import Mapping
from typing import Any

from convert.errors import ConvertError, unknown
from convert.families.apertus import APERTUS
from convert.families.arcee import ARCEE
from convert.families.bloom import BLOOM
from convert.families.cohere import COHERE, COHERE2
from convert.families.ernie4_5 import ERNIE4_5
from convert.families.exaone4 import EXAONE4
from convert.families.falcon import FALCON
from convert.families.family import Family
from convert.families.gemma import GEMMA, GEMMA2, GEMMA3_TEXT
from convert.families.glm import GLM, GLM4
from convert.families.gpt2 import GPT_2
from convert.families.gpt_neox import GPT_NEOX
from convert.families.gpt_oss import GPT_OSS
from convert.families.gptj import GPT_J
from convert.families.granite import GRANITE, GRANITEMOE
from convert.families.helium import HELIUM
from convert.families.internlm3 import INTERNLM3
from convert.families.llama import LLAMA
from convert.families.ministral import MINISTRAL
from convert.families.mistral import MISTRAL
from convert.families.mixtral import MIXTRAL
from convert.families.mpt import MPT
from convert.families.nemotron import NEMOTRON
from convert.families.olmo import OLMO, OLMO2, OLMO3, OLMOE
from convert.families.opt import OPT
from convert.families.phi import PHI
from convert.families.phi3 import PHI3
from convert.families.qwen2 import QWEN2
from convert.families.qwen2_moe import QWEN2_MOE
from convert.families.qwen3 import QWEN3
from convert.families.qwen3_moe import QWEN3_MOE
from convert.families.seed_oss import SEED_OSS
from convert.families.smollm3 import SMOLLM3
from convert.families.stablelm import STABLELM
from convert.families.starcoder2 import STARCODER2

RECORDS: tuple[Family, ...] = (
    APERTUS,
    ARCEE,
    BLOOM,
    COHERE,
    COHERE2,
    ERNIE4_5,
    EXAONE4,
    FALCON,
    GEMMA,
    GEMMA2,
    GEMMA3_TEXT,
    GLM,
    GLM4,
    GPT_2,
    GPT_NEOX,
    GPT_OSS,
    GPT_J,
    GRANITE,
    GRANITEMOE,
    HELIUM,
    INTERNLM3,
    LLAMA,
    MINISTRAL,
    MISTRAL,
    MIXTRAL,
    MPT,
    NEMOTRON,
    OLMO,
    OLMO2,
    OLMO3,
    OLMOE,
    OPT,
    PHI,
    PHI3,
    QWEN2,
    QWEN2_MOE,
    QWEN3,
    QWEN3_MOE,
    SEED_OSS,
    SMOLLM3,
    STABLELM,
    STARCODER2,
)
FAMILIES: dict[str, Family] = {family.model_type: family for family in RECORDS}


def find_family(config: Mapping[str, Any]) -> Family:
    """Look up the family of a checkpoint.

    Args:
        config: Its ``config.json``.

    Returns:
        The record of its ``model_type``.

    Raises:
        ConvertError: the family is not supported, or the checkpoint is itself a windowed result of this tool.
    """
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type.startswith("windowed_"):
        raise ConvertError(
            f"model_type={model_type!r} is a windowed conversion already; convert the checkpoint it came from"
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise unknown("model_type", model_type, FAMILIES)
    return FAMILIES[model_type]
