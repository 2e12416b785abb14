"""SmolLM3 with a window: classes that transformers' auto classes find by ``windowed_smollm3``."""

from transformers import SmolLM3Config, SmolLM3ForCausalLM, SmolLM3Model

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedSmolLM3Config(WindowedConfigMixin, SmolLM3Config):
    model_type = "windowed_smollm3"


class WindowedSmolLM3Model(WindowedModelMixin, SmolLM3Model):
    config_class = WindowedSmolLM3Config


class WindowedSmolLM3ForCausalLM(WindowedForCausalLMMixin, SmolLM3ForCausalLM):
    config_class = WindowedSmolLM3Config
    decoder_class = WindowedSmolLM3Model
