"""The model card of a result: how it was made, what it costs, how to load it."""

import json
from collections.abc import Mapping
from typing import Any

from convert.caches import POLICIES
from convert.quantities import format_change, format_value
from convert.request import Result

TIERS = {
    "native-gqa": "an ordinary checkpoint that every engine loads",
    "native-window": "a sliding window that transformers itself knows",
    "windowed": "what transformers cannot say; loads after `import patches` or with `trust_remote_code=True`",
}


def build_card(result: Result, config: Mapping[str, Any], command: str) -> str:
    """Write the model card.

    Args:
        result: What the conversion gives.
        config: The new ``config.json``.
        command: The command that made it.

    Returns:
        Markdown with front matter.
    """
    conversion = result.provenance
    front = [
        "---",
        f"base_model: {json.dumps(conversion['source'])}",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {tag}" for tag in ("headroom", "kv-cache", result.tier)),
        "---",
    ]
    rows = [
        f"| {row.label} | {format_value(row.before, row.unit)} | {format_value(row.after, row.unit)} "
        f"| {format_change(row)} |"
        for row in result.rows
    ]
    return "\n".join(
        [
            *front,
            "",
            f"# {result.path.name}",
            "",
            f"Made from `{conversion['source']}` by Headroom {conversion['version']}:",
            "",
            "```sh",
            command,
            "```",
            "",
            f"Tier **{result.tier}**: {TIERS[result.tier]}. {result.reason[:1].upper()}{result.reason[1:]}.",
            "",
            *_facts(conversion, config),
            "",
            "| | source | result | |",
            "| --- | ---: | ---: | --- |",
            *rows,
            "",
            "Sizes of the cache are for one sequence, in the dtype of the weights unless compressed.",
            "",
            "## Load it",
            "",
            "```python",
            *result.load_lines,
            "```",
            "",
            *_layers(conversion),
        ]
    )


def describe_loss(conversion: Mapping[str, Any]) -> list[str]:
    """Say in words what computed layers lost and by what they were measured.

    Args:
        conversion: The provenance.

    Returns:
        Sentences; none where weights were pooled as they streamed by, which measures nothing.
    """
    layers = conversion.get("layers")
    if not layers:
        return []
    lines = []
    calibration = conversion.get("calibration")
    if calibration:
        lines.append(f"Calibrated on {calibration['tokens']:,} tokens of {calibration['text']}.")
    shares = [(name, [layer[name] for layer in layers]) for name in ("keys", "values")]
    parts = [
        f"{name} {100 * sum(found) / len(found):.1f}% (worst {100 * max(found):.1f}%)"
        for name, found in shares
    ]
    lines.append(f"Squared error of merging, mean over layers: {', '.join(parts)}.")
    if "stream" in layers[-1]:
        lines.append(
            "Squared error of the residual stream after repair: "
            f"{100 * layers[-1]['stream']:.2g}% at the last layer."
        )
    return lines


def _counts(heads: int | list[int]) -> str:
    if isinstance(heads, int):
        return str(heads)
    return f"{sum(heads) / len(heads):.3g} on average (layer by layer {', '.join(map(str, heads))})"


def _layers(conversion: Mapping[str, Any]) -> list[str]:
    layers = conversion.get("layers")
    if not layers:
        return []
    names = {"keys": "keys", "values": "values", "stream": "residual stream after repair"}
    columns = {name: title for name, title in names.items() if name in layers[0]}
    rows = [
        f"| {index} | " + " | ".join(f"{100 * layer[name]:.3g}%" for name in columns) + " |"
        for index, layer in enumerate(layers)
    ]
    return [
        "## What merging lost, layer by layer",
        "",
        "Squared errors as shares: of the scores (keys), of what values contribute to the output"
        + (", and of the residual stream after attention." if "stream" in columns else "."),
        "",
        f"| layer | {' | '.join(columns.values())} |",
        "| ---: |" + " ---: |" * len(columns),
        *rows,
        "",
    ]


def _facts(conversion: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    before, after = conversion["source_kv_heads"], conversion["kv_heads"]
    facts = [f"- KV heads: {before}"]
    if before != after:
        groups = "adjacent" if conversion["grouping"] == "adjacent" else "searched"
        facts = [
            f"- KV heads: {before} to {_counts(after)}, merged by `{conversion['merge']}` in {groups} groups"
        ]
        calibration = conversion.get("calibration")
        if calibration:
            facts.append(
                f"- Calibrated on {calibration['tokens']:,} tokens of `{calibration['text']}` "
                f"({calibration['digest']}); refit: {'yes' if calibration['refit'] else 'no'}; "
                f"reconstruction: {calibration['reconstruct']} steps per layer"
            )
        facts.append("- Merging loses quality until the model is trained further; measure before use.")
    window = config.get("attention_window")
    if window:
        layers = ", ".join(map(str, window["global_layers"])) or "none"
        streams = ", their distances counted inside the cache" if window["positions"] == "cache" else ""
        facts.append(f"- Window: {window['size']} tokens and {window['sinks']} sinks{streams}")
        facts.append(f"- Layers with full attention: {layers}")
    elif "sliding_attention" in (config.get("layer_types") or ()) or config.get("use_sliding_window"):
        facts.append(
            f"- Sliding window: {config['sliding_window']} tokens, layer by layer as in `layer_types`"
        )
    elif config.get("sliding_window") and "use_sliding_window" not in config:
        facts.append(f"- Sliding window: {config['sliding_window']} tokens in every layer")
    if "cache" in conversion:
        facts += _caches(conversion, config)
    return facts


def _caches(conversion: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    window = config["attention_window"]
    there = {"cache": window is None or window["global_layers"], "window_cache": window is not None}
    titles = {"cache": "full attention", "window_cache": "a window"}
    facts = []
    for option, title in titles.items():
        if there[option]:
            spec = conversion[option]
            summary = POLICIES[spec.partition(":")[0]].summary
            facts.append(f"- Cache of layers with {title}: `{spec}`, {summary}")
    return [*facts, "- A compressed cache is not exact; measure before use (`python -m eval cache`)."]
