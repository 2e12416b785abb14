"""Opening a text and a checkpoint for a job, and reading one layer."""

import torch
from torch import nn

from convert.calibration.decoder import Decoder
from convert.calibration.probe import Spots
from convert.calibration.streams import Reading, Streams, Tick, Wanted
from convert.calibration.text import LONGEST_ROW, CalibrationText, read_text
from convert.errors import ConvertError
from convert.layerwise.job import Calibration, LayerJob
from convert.merging.inputs import Inputs, inputs_from_moment

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
"""What families call the number of positions they were made for."""


def read_calibration(job: LayerJob, calibration: Calibration) -> CalibrationText:
    """Read the text of a job in rows no longer than the positions that its model was made for.

    Raises:
        ConvertError: the text cannot be read or is too short, or there is no tokenizer.
    """
    named = [job.config.get(key) for key in POSITIONS] + [job.family.value(job.config, POSITIONS[0])]
    longest = next((value for value in named if type(value) is int and value > 0), LONGEST_ROW)
    return read_text(calibration.text, job.folder, calibration.tokens, longest, calibration.batch)


def open_streams(job: LayerJob, calibration: Calibration, text: CalibrationText, converted: bool) -> Streams:
    """Embed a text: the streams before the first layer.

    Args:
        job: The conversion.
        calibration: Batch and device.
        text: The rows.
        converted: Whether the converted model's stream runs along.

    Raises:
        ConvertError: transformers cannot build the model.
    """
    decoder = Decoder(job.folder, job.weights, job.family.layers, torch.device(calibration.device))
    spots = find_spots(job)
    return Streams(decoder, text.rows, calibration.batch, spots, converted, calibration.share)


def read_layer(
    job: LayerJob, streams: Streams, index: int, layer: nn.Module, tick: Tick
) -> tuple[Inputs, Wanted]:
    """Run the source's layer and advance its stream.

    Args:
        job: The conversion.
        streams: Before the layer.
        index: The layer's number.
        layer: The layer, loaded.
        tick: Called after every batch.

    Returns:
        What its projections read, and what its attention gave.

    Raises:
        ConvertError: the source gives NaN or infinity on this text.
    """
    roles = {role for roles in job.family.layout.roles(job.config).values() for role in roles}
    biased = bool(roles & {"q_bias", "k_bias", "v_bias"})
    reading = Reading(job.shape.heads, job.shape.head_dim, biased)
    moments, wanted = streams.read_source(index, layer, reading, tick)
    inputs, attended = (part.cpu() / moments.tokens for part in (moments.inputs, moments.attended))
    try:
        return inputs_from_moment(inputs, attended), wanted
    except ValueError as error:
        raise ConvertError(f"layer {index} cannot be calibrated: {error}") from error


def find_spots(job: LayerJob) -> Spots:
    """Say where the attention of a job's layers reads, gives and adds."""
    family = job.family
    holder = {role: suffix for suffix, roles in family.layout.roles(job.config).items() for role in roles}
    keys, output = (f"{family.attention}.{holder[role].rpartition('.')[0]}" for role in ("k", "o"))
    return Spots(
        attention=family.attention,
        keys=keys,
        output=output,
        added=family.residual or output,
        scale=family.residual_scale(job.config),
    )
