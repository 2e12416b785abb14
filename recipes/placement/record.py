"""What a placement found, for a file, a table and a sentence."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from recipes.placement.ranking import Losses, Ranking, total


@dataclass(frozen=True)
class Placement:
    """The choice and what it rests on.

    Attributes:
        ranking: Both rankings.
        source_loss: By probe, the source's own loss in nats per token that counts.
        counted: By probe, how many tokens count.
        settings: Window, rows and text.
        wall_s: Seconds it took.
    """

    ranking: Ranking
    source_loss: Losses
    counted: dict[str, int]
    settings: dict[str, Any]
    wall_s: float

    def write(self, path: Path) -> None:
        """Write it as JSON, all at once."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        entry = {"global_layers": list(self.ranking.chosen), "sentence": self.sentence(), **asdict(self)}
        partial.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    def sentence(self) -> str:
        """The choice and both rankings in one line."""
        steps, before = [], total(self.ranking.windowed)
        for each in self.ranking.rounds:
            after = total(each.losses)
            steps.append(f"layer {each.layer} ({before:.3g} -> {after:.3g})")
            before = after
        alone = ", ".join(f"{layer} ({total(losses):.2g})" for layer, losses in self.ranking.alone)
        chosen = ", ".join(map(str, self.ranking.chosen))
        return (
            f"full attention stays in {chosen} of {len(self.ranking.alone)} layers, chosen one by one from a "
            f"window of {self.settings['window']} tokens everywhere by KL to the source "
            f"({' + '.join(self.counted)}; nats per token): {', '.join(steps)}. "
            f"Windowed alone, costliest first: {alone}"
        )

    def table(self) -> Table:
        """One line per layer: what a window in it alone costs, and when full attention was given back."""
        table = Table("layer", *self.counted, "windowed alone", "chosen")
        order = {each.layer: number for number, each in enumerate(self.ranking.rounds, 1)}
        for layer, losses in self.ranking.alone:
            numbers = [f"{value:.4f}" for value in (*losses.values(), total(losses))]
            table.add_row(str(layer), *numbers, str(order.get(layer, "")))
        return table


def read_choice(path: Path) -> tuple[tuple[int, ...], str]:
    """The chosen layers and the sentence of a record that was written."""
    entry = json.loads(path.read_text(encoding="utf-8"))
    return tuple(entry["global_layers"]), entry["sentence"]
