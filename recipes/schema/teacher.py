"""How a recipe says who teaches."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from recipes.schema.part import Part


class _LoadedTeacher(Part):
    """A teacher that is loaded as a model of its own.

    Attributes:
        dtype: Of its weights; ``auto``: that of the checkpoint, float32 where there is only a CPU.
        quantization: ``8bit``: linear layers in int8, by bitsandbytes.
        offload: ``cpu``: weights wait in CPU memory and visit the device one module at a time.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantization: Literal["none", "8bit"] = "none"
    offload: Literal["none", "cpu"] = "none"

    @model_validator(mode="after")
    def _one_way(self) -> "_LoadedTeacher":
        if self.quantization == "8bit" and self.offload == "cpu":
            raise ValueError(
                "quantization 8bit and offload cpu exclude each other: bitsandbytes keeps int8 on the device"
            )
        return self


class SeparateTeacher(_LoadedTeacher):
    """The source, beside the student in the same process."""

    kind: Literal["separate"] = "separate"


class SharedTeacher(Part):
    """The student's own weights without what is trained, windows and merged heads.

    Only weights that the conversion changed are held twice. Not for sources whose attention has no
    ``k_proj`` and ``v_proj``, if the conversion merged heads.
    """

    kind: Literal["shared"]


class SavedTeacher(_LoadedTeacher):
    """The source's most likely tokens of every training row, on disk before the training begins.

    They lie in ``RUN/teacher``, ``6 * top_k + 2`` bytes per token, and are used again as long as teacher,
    ``top_k`` and ``temperature`` stay. The source is in memory only while they are made.

    Attributes:
        top_k: How many; the KL is that of ``kl_top_k``.
    """

    kind: Literal["saved"]
    top_k: PositiveInt = 64


Teacher = Annotated[SeparateTeacher | SharedTeacher | SavedTeacher, Field(discriminator="kind")]
