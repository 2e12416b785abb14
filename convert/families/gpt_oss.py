"""gpt-oss: experts, every other layer slides, and each query head has a sink logit of its own."""

from dataclasses import dataclass

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.keys import Config, sizes
from convert.families.layouts.separate import Separate

BIAS = ("attention_bias", True)


@dataclass(frozen=True)
class GptOss(Family):
    """Sink logits stay with their query heads, which therefore stay where they are."""

    def ordered(self, config: Config) -> bool:
        """Say whether heads cannot change places."""
        return True


GPT_OSS = GptOss(
    model_type="gpt_oss",
    prefix="GptOss",
    layout=Separate(qkv_bias=BIAS, output_bias=BIAS),
    defaults=sizes(2880, layers=36, heads=64, kv_heads=8, head_dim=64),
    window=NativeWindow(default_size=128, period=("", 2), per_layer=True),
    windowed=True,
    note="every other layer slides already; sink logits stay with their query heads",
)
