"""Two streams of hidden states through the layers: the source's, and the converted model's beside it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convert.calibration.decoder import Call, Decoder
from convert.calibration.probe import Seen, Spots, run_attention, run_whole
from convert.calibration.share import ALONE, Share

Weights = Mapping[str, Tensor]
Tick = Callable[[], None]


@dataclass(frozen=True)
class Wanted:
    """What a converted layer should give.

    Args:
        stream: The source's residual stream after attention, ``[R, T, E]``.
        output: The source's output projection, ``[R, T, E]``, where a norm stands behind it; else None.
    """

    stream: Tensor
    output: Tensor | None


@dataclass(frozen=True)
class Reading:
    """How a layer is read: its query heads, and whether its inputs get a 1 appended."""

    heads: int
    head_dim: int
    biased: bool


@dataclass
class Moments:
    """Sums over tokens, float64.

    Args:
        inputs: ``[X, X]`` of what q, k and v read.
        attended: ``[H, D, D]`` of what the output projection reads, head by head.
        reading: Whether a 1 is appended, and the heads.
        tokens: How many were added.
    """

    inputs: Tensor
    attended: Tensor
    reading: Reading
    tokens: int = 0

    @classmethod
    def empty(cls, size: int, reading: Reading, device: torch.device) -> "Moments":
        """Start with no tokens."""
        heads, head_dim = reading.heads, reading.head_dim
        return cls(
            torch.zeros(size, size, dtype=torch.float64, device=device),
            torch.zeros(heads, head_dim, head_dim, dtype=torch.float64, device=device),
            reading,
        )

    def add(self, inputs: Tensor, heads: Tensor) -> None:
        """Add tokens: inputs ``[N, E]`` and the heads' outputs side by side ``[N, H * D]``."""
        if self.reading.biased:
            inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
        self.inputs += (inputs.T @ inputs).double()
        split = heads.unflatten(1, (self.reading.heads, self.reading.head_dim)).transpose(0, 1)
        self.attended += (split.mT @ split).double()
        self.tokens += len(inputs)


class Streams:
    """Hidden states of a process's calibration rows before the current layer, float32.

    Args:
        decoder: The source.
        rows: ``[R, T]`` token ids of the whole text, whole batches.
        batch: Rows that are run at once.
        spots: Where to look in a layer.
        converted: Whether the converted model's stream runs along.
        share: The processes that read the text together.
    """

    def __init__(
        self,
        decoder: Decoder,
        rows: Tensor,
        batch: int,
        spots: Spots,
        converted: bool,
        share: Share = ALONE,
    ):
        self.decoder = decoder
        self.share = share
        self.batch = batch
        self.spots = spots
        parts = [decoder.embed(part) for part in share.rows(rows, batch).split(batch)]
        self.calls: list[Call] = parts[0][1]
        self.source = torch.cat([hidden for hidden, _ in parts])
        self.converted = self.source.clone() if converted else None
        decoder.drop_embeddings()

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return len(self.source) // self.batch

    @torch.no_grad()
    def read_source(
        self, index: int, layer: nn.Module, reading: Reading, tick: Tick
    ) -> tuple[Moments, Wanted]:
        """Run the source's layer and advance its stream.

        Args:
            index: The layer's number.
            layer: The layer, loaded.
            reading: What is to be known about the layer.
            tick: Called after every batch.

        Returns:
            The second moments of what the projections read in every process, and what was given here.
        """
        moments = Moments.empty(self.source.shape[-1] + reading.biased, reading, self.source.device)
        stream = torch.empty_like(self.source)
        output = torch.empty_like(self.source) if self.spots.added != self.spots.output else None
        for rows in self._rows():
            after, seen = run_whole(layer, self.spots, {}, self.source[rows], self.calls[index])
            moments.add(_present(seen.inputs).flatten(0, 1), _present(seen.heads).flatten(0, 1))
            stream[rows] = self.source[rows] + self.spots.scale * _present(seen.added)
            if output is not None:
                output[rows] = _present(seen.output)
            self.source[rows] = after
            tick()
        count = torch.tensor(moments.tokens)
        self.share.add(moments.inputs, moments.attended, count)
        moments.tokens = int(count)
        return moments, Wanted(stream, output)

    @torch.no_grad()
    def read_heads(
        self, index: int, layer: nn.Module, weights: Weights, wanted: Wanted
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Run the converted layer's attention.

        Args:
            index: The layer's number.
            layer: The layer, loaded.
            weights: The converted attention tensors.
            wanted: What the layer should give.

        Yields:
            For each batch what its output projection reads, ``[N, H * D]``, and should give, ``[N, E]``.
        """
        hidden = _present(self.converted)
        for rows in self._rows():
            seen = run_attention(layer, self.spots, weights, hidden[rows], self.calls[index])
            if wanted.output is None:
                target = (wanted.stream[rows] - hidden[rows]) / self.spots.scale
            else:
                target = wanted.output[rows]
            yield _present(seen.heads).flatten(0, 1), target.flatten(0, 1)

    def attend(self, index: int, layer: nn.Module, weights: Weights, hidden: Tensor) -> Tensor:
        """Give the converted stream after attention for some rows ``[B, T, E]``, with gradients."""
        seen: Seen = run_attention(layer, self.spots, weights, hidden, self.calls[index])
        return hidden + self.spots.scale * _present(seen.added)

    @torch.no_grad()
    def advance(self, index: int, layer: nn.Module, weights: Weights, wanted: Wanted, tick: Tick) -> float:
        """Run the converted layer and advance its stream.

        Args:
            index: The layer's number.
            layer: The layer, loaded.
            weights: The converted attention tensors.
            wanted: What the layer should give.
            tick: Called after every batch.

        Returns:
            Squared error of the stream after attention, as a share of the stream's own square.
        """
        hidden = _present(self.converted)
        error = torch.zeros((), dtype=torch.float64, device=hidden.device)
        square = wanted.stream.double().square().sum()
        for rows in self._rows():
            after, seen = run_whole(layer, self.spots, weights, hidden[rows], self.calls[index])
            stream = hidden[rows] + self.spots.scale * _present(seen.added)
            error += (stream - wanted.stream[rows]).double().square().sum()
            hidden[rows] = after
            tick()
        self.share.add(error, square)
        return float(error / square)

    def _rows(self) -> Iterator[slice]:
        return (slice(start, start + self.batch) for start in range(0, len(self.source), self.batch))


def _present(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("the layer did not run as expected")
    return tensor
