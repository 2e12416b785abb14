"""Seed-OSS with a window: classes that transformers' auto classes find by ``windowed_seed_oss``."""

from transformers import SeedOssConfig, SeedOssForCausalLM, SeedOssModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedSeedOssConfig(WindowedConfigMixin, SeedOssConfig):
    model_type = "windowed_seed_oss"


class WindowedSeedOssModel(WindowedModelMixin, SeedOssModel):
    config_class = WindowedSeedOssConfig


class WindowedSeedOssForCausalLM(WindowedForCausalLMMixin, SeedOssForCausalLM):
    config_class = WindowedSeedOssConfig
    decoder_class = WindowedSeedOssModel
