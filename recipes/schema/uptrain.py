"""How a recipe says a training: what is trained, on which losses, for how long."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from recipes.schema.data import Data
from recipes.schema.part import Part, Share
from recipes.schema.teacher import SavedTeacher, SeparateTeacher, Teacher

Length = Annotated[int, Field(ge=16)]
Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj"]
Layer = Annotated[int, Field(ge=0)]
Layers = Literal["all", "converted", "windowed"] | Annotated[list[Layer], Field(min_length=1)]
LayerWeights = Annotated[dict[Layer, Annotated[float, Field(gt=0.0)]], Field(min_length=1)]


class LoraPart(Part):
    """What is trained: low-rank adapters, by ``peft``, and some weights whole.

    Attributes:
        rank: Of the adapters.
        alpha: They are scaled by ``alpha / rank``.
        dropout: Of what goes into them.
        targets: Projections of attention that get adapters, whatever the family calls them.
        full: Projections that are trained whole instead.
        rslora: Scale by ``alpha / sqrt(rank)`` (arXiv 2312.03732), for high ranks.
        dora: Train the length of each row of a weight apart from its direction (arXiv 2402.09353).
        norms: Train the weights of all norms whole.
        sink_logits: Give every query head of every windowed layer a learned logit in its softmax, with no
            value, as gpt-oss has; for results of the windowed tier, and in no other engine.
        layers: Where: ``all``, ``converted`` (other KV heads or another window than in the source),
            ``windowed`` or a list; other than ``all``, norms outside of layers stay.
    """

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0
    targets: Annotated[list[Projection], Field(min_length=1)] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    full: list[Projection] = Field(default=[])
    rslora: bool = False
    dora: bool = False
    norms: bool = False
    sink_logits: bool = False
    layers: Layers = "all"

    @model_validator(mode="after")
    def _disjoint(self) -> "LoraPart":
        both = sorted(set(self.targets) & set(self.full))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be both a target of LoRA and trained in full")
        return self


class StagePart(Part):
    """A stretch of a training with rows of one length, as a recipe says it.

    Attributes:
        length: Tokens of a row.
        steps: Optimizer steps.
        batch_size: Rows per device and pass; absent: the training's own.
    """

    length: Length
    steps: PositiveInt
    batch_size: PositiveInt | None = None


@dataclass(frozen=True)
class Stage:
    """A stretch of a training with rows of one length.

    Attributes:
        length: Tokens of a row.
        steps: Optimizer steps.
        batch_size: Rows per device and pass.
    """

    length: int
    steps: int
    batch_size: int


class HeldoutPart(Part):
    """Rows of the first documents that are measured and never trained on, and what follows from them.

    Attributes:
        rows: How many, of the longest stage's length.
        every: Steps between measurements.
        stop_at_kl: Stop when the held-out KL is at most this.
        patience: Stop after so many measurements without a lower KL (CE where there is no teacher).
        keep_best: End with the step that measured best instead of the last one.
    """

    rows: PositiveInt = 8
    every: PositiveInt = 50
    stop_at_kl: PositiveFloat | None = None
    patience: PositiveInt | None = None
    keep_best: bool = False


class UptrainPart(Part):
    """A short training of the converted checkpoint with the source as teacher.

    Attributes:
        data: Where the text comes from; a list is a mixture.
        steps: Optimizer steps; with stages their sum, and best left out.
        length: Tokens of a training row, or the stages of a curriculum: short rows teach most for their time,
            long ones teach the global layers to carry what a window forgets. All stages share one optimizer
            and one schedule of the learning rate.
        packing: Documents of a row do not see each other (``apart``), as when the model is used: each has
            its own positions and its own sinks. Or they do (``joined``), which lets a window meet rows longer
            than itself where the documents are shorter.
        batch_size: Rows per device and pass.
        accumulate: Passes per step.
        learning_rate: Peak; warmed up, then decayed by a cosine to zero.
        warmup_steps: Steps to the peak.
        weight_decay: AdamW's.
        optimizer: ``adamw``, or by bitsandbytes with a state of 8 bits: ``adamw_8bit``, ``paged_adamw_8bit``
            (the state may move to CPU memory).
        teacher: Who teaches: ``kind: separate`` (the source beside the student), ``shared`` (the student
            itself, as the source) or ``saved`` (what the source said before the training).
        kl_weight: Weight of the KL divergence from the teacher to the student, per token.
        kl_top_k: Compare so many of the teacher's most likely tokens and the sum of the others, which is
            never more than the full KL; absent: every token of the vocabulary.
        temperature: Divides both logits in the KL, which is multiplied by its square.
        ce_weight: Weight of the usual next-token loss.
        attention_weight: Weight of the distance between every attention's output and the teacher's, relative
            to the size of the teacher's. Gives each layer its own target, so that little text goes far.
        attention_layers: Whose attention is compared: ``all``, ``converted`` (other KV heads or another
            window than in the source), ``windowed``, a list, or layers with weights, as in ``{0: 1, 3: 2}``.
        lora: What is trained.
        gradient_checkpointing: Less memory, more time.
        bf16: Mixed precision in bfloat16, in the teacher's passes too.
        heldout: Rows set aside to measure on; absent: none.
        tensorboard: Write ``training/tensorboard`` in the folder of the run; needs the extra of that name.
        log_every: Steps between log lines.
        save_every: Steps between checkpoints that ``--resume`` continues from.
        seed: Of the adapters, of dropout and of the draws from a mixture.
    """

    data: Data
    steps: PositiveInt
    length: Length | Annotated[list[StagePart], Field(min_length=1)] = 2048
    packing: Literal["apart", "joined"] = "apart"
    batch_size: PositiveInt = 1
    accumulate: PositiveInt = 1
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    weight_decay: NonNegativeFloat = 0.0
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    teacher: Teacher = SeparateTeacher()
    kl_weight: NonNegativeFloat = 1.0
    kl_top_k: PositiveInt | None = None
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    ce_weight: NonNegativeFloat = 0.0
    attention_weight: NonNegativeFloat = 0.0
    attention_layers: Layers | LayerWeights = "all"
    lora: LoraPart = LoraPart()
    gradient_checkpointing: bool = False
    bf16: bool = False
    heldout: HeldoutPart | None = None
    tensorboard: bool = False
    log_every: PositiveInt = 10
    save_every: PositiveInt = 100
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _steps_of_stages(cls, values: Any) -> Any:
        """Stages say how many steps there are."""
        stages = values.get("length") if isinstance(values, dict) else None
        if not isinstance(stages, list):
            return values
        counts = [stage.get("steps") if isinstance(stage, dict) else None for stage in stages]
        known = [count for count in counts if type(count) is int]
        if len(known) < len(counts):
            # A mistake inside a stage is named by its own check.
            return {"steps": 1} | values
        total = sum(known)
        if values.get("steps", total) != total:
            raise ValueError(f"steps={values['steps']} and stages of {total} steps; leave steps out")
        return values | {"steps": total}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages; a single length is one."""
        if isinstance(self.length, int):
            return (Stage(self.length, self.steps, self.batch_size),)
        return tuple(
            Stage(part.length, part.steps, part.batch_size or self.batch_size) for part in self.length
        )

    @property
    def row_tokens(self) -> int:
        """Tokens that fit into all rows of all steps, per device."""
        return self.accumulate * sum(stage.steps * stage.batch_size * stage.length for stage in self.stages)

    @model_validator(mode="after")
    def _some_loss(self) -> "UptrainPart":
        if not (self.kl_weight or self.ce_weight or self.attention_weight):
            raise ValueError("kl_weight, ce_weight and attention_weight are all 0: nothing to learn from")
        if self.heldout is not None and self.heldout.stop_at_kl is not None and not self.kl_weight:
            raise ValueError("heldout.stop_at_kl needs a kl_weight above 0: without it no KL is measured")
        return self

    @model_validator(mode="after")
    def _saved_is_enough(self) -> "UptrainPart":
        if not isinstance(self.teacher, SavedTeacher):
            return self
        if self.attention_weight:
            raise ValueError(
                "attention_weight needs a teacher in memory, for outputs of attention are not saved; set it "
                "to 0, or teacher.kind to separate or shared"
            )
        if not self.kl_weight:
            raise ValueError("teacher.kind saved with kl_weight 0: nothing that is saved would be read")
        if self.kl_top_k is not None:
            raise ValueError("kl_top_k is that of a teacher in memory; a saved one has teacher.top_k")
        return self
