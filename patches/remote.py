"""Every windowed and every grouped class, for ``import patches``."""

from patches.families.apertus import WindowedApertusConfig, WindowedApertusForCausalLM, WindowedApertusModel
from patches.families.arcee import WindowedArceeConfig, WindowedArceeForCausalLM, WindowedArceeModel
from patches.families.bloom import WindowedBloomConfig, WindowedBloomForCausalLM, WindowedBloomModel
from patches.families.cohere import WindowedCohereConfig, WindowedCohereForCausalLM, WindowedCohereModel
from patches.families.cohere2 import WindowedCohere2Config, WindowedCohere2ForCausalLM, WindowedCohere2Model
from patches.families.ernie4_5 import (
    WindowedErnie4_5Config,
    WindowedErnie4_5ForCausalLM,
    WindowedErnie4_5Model,
)
from patches.families.exaone4 import WindowedExaone4Config, WindowedExaone4ForCausalLM, WindowedExaone4Model
from patches.families.falcon import WindowedFalconConfig, WindowedFalconForCausalLM, WindowedFalconModel
from patches.families.gemma import WindowedGemmaConfig, WindowedGemmaForCausalLM, WindowedGemmaModel
from patches.families.gemma2 import WindowedGemma2Config, WindowedGemma2ForCausalLM, WindowedGemma2Model
from patches.families.gemma3_text import WindowedGemma3Config, WindowedGemma3ForCausalLM, WindowedGemma3Model
from patches.families.glm import WindowedGlmConfig, WindowedGlmForCausalLM, WindowedGlmModel
from patches.families.glm4 import WindowedGlm4Config, WindowedGlm4ForCausalLM, WindowedGlm4Model
from patches.families.gpt2 import WindowedGPT2Config, WindowedGPT2ForCausalLM, WindowedGPT2Model
from patches.families.gpt_neox import WindowedGPTNeoXConfig, WindowedGPTNeoXForCausalLM, WindowedGPTNeoXModel
from patches.families.gpt_oss import WindowedGptOssConfig, WindowedGptOssForCausalLM, WindowedGptOssModel
from patches.families.gptj import WindowedGPTJConfig, WindowedGPTJForCausalLM, WindowedGPTJModel
from patches.families.granite import WindowedGraniteConfig, WindowedGraniteForCausalLM, WindowedGraniteModel
from patches.families.granitemoe import (
    WindowedGraniteMoeConfig,
    WindowedGraniteMoeForCausalLM,
    WindowedGraniteMoeModel,
)
from patches.families.helium import WindowedHeliumConfig, WindowedHeliumForCausalLM, WindowedHeliumModel
from patches.families.llama import WindowedLlamaConfig, WindowedLlamaForCausalLM, WindowedLlamaModel
from patches.families.ministral import (
    WindowedMinistralConfig,
    WindowedMinistralForCausalLM,
    WindowedMinistralModel,
)
from patches.families.mistral import WindowedMistralConfig, WindowedMistralForCausalLM, WindowedMistralModel
from patches.families.mixtral import WindowedMixtralConfig, WindowedMixtralForCausalLM, WindowedMixtralModel
from patches.families.mpt import WindowedMptConfig, WindowedMptForCausalLM, WindowedMptModel
from patches.families.nemotron import (
    WindowedNemotronConfig,
    WindowedNemotronForCausalLM,
    WindowedNemotronModel,
)
from patches.families.olmo import WindowedOlmoConfig, WindowedOlmoForCausalLM, WindowedOlmoModel
from patches.families.olmo2 import WindowedOlmo2Config, WindowedOlmo2ForCausalLM, WindowedOlmo2Model
from patches.families.olmo3 import WindowedOlmo3Config, WindowedOlmo3ForCausalLM, WindowedOlmo3Model
from patches.families.olmoe import WindowedOlmoeConfig, WindowedOlmoeForCausalLM, WindowedOlmoeModel
from patches.families.opt import WindowedOPTConfig, WindowedOPTForCausalLM, WindowedOPTModel
from patches.families.phi import WindowedPhiConfig, WindowedPhiForCausalLM, WindowedPhiModel
from patches.families.phi3 import WindowedPhi3Config, WindowedPhi3ForCausalLM, WindowedPhi3Model
from patches.families.qwen2 import WindowedQwen2Config, WindowedQwen2ForCausalLM, WindowedQwen2Model
from patches.families.qwen2_moe import (
    WindowedQwen2MoeConfig,
    WindowedQwen2MoeForCausalLM,
    WindowedQwen2MoeModel,
)
from patches.families.qwen3 import WindowedQwen3Config, WindowedQwen3ForCausalLM, WindowedQwen3Model
from patches.families.qwen3_moe import (
    WindowedQwen3MoeConfig,
    WindowedQwen3MoeForCausalLM,
    WindowedQwen3MoeModel,
)
from patches.families.seed_oss import WindowedSeedOssConfig, WindowedSeedOssForCausalLM, WindowedSeedOssModel
from patches.families.smollm3 import WindowedSmolLM3Config, WindowedSmolLM3ForCausalLM, WindowedSmolLM3Model
from patches.families.stablelm import (
    WindowedStableLmConfig,
    WindowedStableLmForCausalLM,
    WindowedStableLmModel,
)
from patches.families.starcoder2 import (
    WindowedStarcoder2Config,
    WindowedStarcoder2ForCausalLM,
    WindowedStarcoder2Model,
)

FAMILIES = (
    (WindowedApertusConfig, WindowedApertusModel, WindowedApertusForCausalLM),
    (WindowedArceeConfig, WindowedArceeModel, WindowedArceeForCausalLM),
    (WindowedCohereConfig, WindowedCohereModel, WindowedCohereForCausalLM),
    (WindowedCohere2Config, WindowedCohere2Model, WindowedCohere2ForCausalLM),
    (WindowedErnie4_5Config, WindowedErnie4_5Model, WindowedErnie4_5ForCausalLM),
    (WindowedExaone4Config, WindowedExaone4Model, WindowedExaone4ForCausalLM),
    (WindowedGemmaConfig, WindowedGemmaModel, WindowedGemmaForCausalLM),
    (WindowedGemma2Config, WindowedGemma2Model, WindowedGemma2ForCausalLM),
    (WindowedGemma3Config, WindowedGemma3Model, WindowedGemma3ForCausalLM),
    (WindowedGlmConfig, WindowedGlmModel, WindowedGlmForCausalLM),
    (WindowedGlm4Config, WindowedGlm4Model, WindowedGlm4ForCausalLM),
    (WindowedGPTNeoXConfig, WindowedGPTNeoXModel, WindowedGPTNeoXForCausalLM),
    (WindowedGptOssConfig, WindowedGptOssModel, WindowedGptOssForCausalLM),
    (WindowedGraniteConfig, WindowedGraniteModel, WindowedGraniteForCausalLM),
    (WindowedGraniteMoeConfig, WindowedGraniteMoeModel, WindowedGraniteMoeForCausalLM),
    (WindowedHeliumConfig, WindowedHeliumModel, WindowedHeliumForCausalLM),
    (WindowedLlamaConfig, WindowedLlamaModel, WindowedLlamaForCausalLM),
    (WindowedMinistralConfig, WindowedMinistralModel, WindowedMinistralForCausalLM),
    (WindowedMistralConfig, WindowedMistralModel, WindowedMistralForCausalLM),
    (WindowedMixtralConfig, WindowedMixtralModel, WindowedMixtralForCausalLM),
    (WindowedNemotronConfig, WindowedNemotronModel, WindowedNemotronForCausalLM),
    (WindowedOlmoConfig, WindowedOlmoModel, WindowedOlmoForCausalLM),
    (WindowedOlmo2Config, WindowedOlmo2Model, WindowedOlmo2ForCausalLM),
    (WindowedOlmo3Config, WindowedOlmo3Model, WindowedOlmo3ForCausalLM),
    (WindowedOlmoeConfig, WindowedOlmoeModel, WindowedOlmoeForCausalLM),
    (WindowedPhiConfig, WindowedPhiModel, WindowedPhiForCausalLM),
    (WindowedPhi3Config, WindowedPhi3Model, WindowedPhi3ForCausalLM),
    (WindowedQwen2Config, WindowedQwen2Model, WindowedQwen2ForCausalLM),
    (WindowedQwen2MoeConfig, WindowedQwen2MoeModel, WindowedQwen2MoeForCausalLM),
    (WindowedQwen3Config, WindowedQwen3Model, WindowedQwen3ForCausalLM),
    (WindowedQwen3MoeConfig, WindowedQwen3MoeModel, WindowedQwen3MoeForCausalLM),
    (WindowedSeedOssConfig, WindowedSeedOssModel, WindowedSeedOssForCausalLM),
    (WindowedSmolLM3Config, WindowedSmolLM3Model, WindowedSmolLM3ForCausalLM),
    (WindowedStableLmConfig, WindowedStableLmModel, WindowedStableLmForCausalLM),
    (WindowedStarcoder2Config, WindowedStarcoder2Model, WindowedStarcoder2ForCausalLM),
)

GROUPED_FAMILIES = (
    (WindowedGPT2Config, WindowedGPT2Model, WindowedGPT2ForCausalLM),
    (WindowedOPTConfig, WindowedOPTModel, WindowedOPTForCausalLM),
    (WindowedGPTJConfig, WindowedGPTJModel, WindowedGPTJForCausalLM),
    (WindowedFalconConfig, WindowedFalconModel, WindowedFalconForCausalLM),
    (WindowedBloomConfig, WindowedBloomModel, WindowedBloomForCausalLM),
    (WindowedMptConfig, WindowedMptModel, WindowedMptForCausalLM),
)
