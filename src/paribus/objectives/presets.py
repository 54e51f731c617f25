"""Published recipes by name: ``objective: {preset: clip-datacomp-12m-16, ...changes}``.

The seven names without a paper beside them are the models that the study released (Leonardo6/*). What its
authors did not state takes the default of docs/objectives.md. A preset is the objective alone; batch, rates
and data belong to the control.
"""

from collections.abc import Mapping
from typing import Any

ROBERTA: dict[str, Any] = {
    "kind": "pretrained",
    "weights": "roberta-base",
    "pooling": "mean",
    "projection": "mlp",
}
VICUNA = {"kind": "frozen", "weights": "vicuna-7b-v1.5", "pooling": "mean"}
SILC_DINO: dict[str, Any] = {
    "kind": "dino",
    "drop_path": 0.0,
    "momentum": 0.966,
    "final_momentum": 0.966,
}

PRESETS: dict[str, dict[str, Any]] = {
    "clip-datacomp-12m-16": {"kind": "clip"},
    "clip-datacomp-12m-32": {"kind": "clip"},
    "siglip-datacomp-12m-16": {"kind": "siglip"},
    "clip-roberta10-datacomp-12m-16": {"kind": "clip", "text": {**ROBERTA, "unlocked": 10}},
    "clip-roberta4-datacomp-12m-16": {"kind": "clip", "text": {**ROBERTA, "unlocked": 4}},
    "clip-vicuna": {
        "kind": "clip",
        "text": VICUNA,
    },
    "dino-datacomp-12m-16": {"kind": "dino"},
    "slip": {
        "kind": "hybrid",
        "parts": {
            "clip": {"objective": {"kind": "clip", "crop": [0.5, 1.0]}},
            "simclr": {"objective": {"kind": "simclr"}},
        },
    },
    "silc": {
        "kind": "hybrid",
        "parts": {
            "clip": {"objective": {"kind": "clip", "reads": ["global1", "global2"]}},
            "dino": {"objective": SILC_DINO},
        },
    },
    "siglip2-late": {
        "kind": "hybrid",
        "parts": {
            "siglip": {"objective": {"kind": "siglip"}},
            "dino": {"objective": SILC_DINO, "weight": 0.25, "start": 0.8},
        },
    },
    "dinotxt": {"kind": "dinotxt"},
}


def expand(value: Any) -> Any:
    """A config with ``preset`` as the preset with the other keys merged into it; all else as it is.

    Raises:
        ValueError: there is no such preset.
    """
    if not isinstance(value, Mapping) or "preset" not in value:
        return value
    changes = dict(value)
    name = changes.pop("preset")
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}: choose one of {', '.join(PRESETS)}")
    return merged(PRESETS[name], changes)


def _same_kind(below: Mapping[str, Any], change: Mapping[str, Any]) -> bool:
    return bool(change.get("kind", below.get("kind")) == below.get("kind"))


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` into ``base``, mapping by mapping; a mapping of another ``kind`` replaces the whole."""
    out = dict(base)
    for key, change in changes.items():
        below = out.get(key)
        if isinstance(below, Mapping) and isinstance(change, Mapping) and _same_kind(below, change):
            out[key] = merged(below, change)
        else:
            out[key] = change
    return out
