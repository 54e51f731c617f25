"""The ledger: what was equal, what was treated, what is admitted to differ, and what was measured."""

import json
from typing import Any, NamedTuple

from paribus.results import LedgerRow
from paribus.study.control import GEOMETRY
from paribus.study.stage import walk
from paribus.study.stages import Pretrain, PretrainRecord
from paribus.study.study import Arm, Study
from paribus.types import Confound, Runtime, ViewSpec

MEASURED = {
    "pictures": "digest of every picture",
    "data": "digest of every picture and caption",
    "order": "digest of the sample order really consumed",
    "start": "digest of the encoder's weights at step 0",
    "samples": "samples really seen",
    "encoder_parameters": "parameters of the encoder",
}
"""What must agree between arms, as each run recorded it."""

TREATED = ("objective", "text", "after")
"""Settings that are the treatment itself: the objective, its text tower's material, the arm it follows."""

FEWER = ("samples", "order")
"""What differs at level ``compute`` by its definition."""

INTRINSIC = "the crops are part of the objective's recipe"


class Audit(NamedTuple):
    """The ledger, and every disagreement as a sentence."""

    rows: list[LedgerRow]
    faults: list[str]


def flatten(value: Any, path: str = "") -> dict[str, str]:
    """Nested settings as ``path -> value``; each view of a list is one line, other lists stay whole."""
    if isinstance(value, dict):
        flat: dict[str, str] = {}
        for key, below in value.items():
            flat |= flatten(below, f"{path}.{key}" if path else str(key))
        return flat
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        return {f"{path}.{item['name']}": _spell_view(item) for item in value}
    return {path: value if isinstance(value, str) else json.dumps(value)}


def _spell_view(view: dict[str, Any]) -> str:
    """A view in a line: its geometry, and whatever else is not off."""
    off = ViewSpec(name="off").model_dump(mode="json")
    shown = {k: v for k, v in view.items() if k in GEOMETRY or v != off.get(k)}
    return ", ".join(f"{key} {value}" for key, value in shown.items() if key != "name")


def audit(study: Study, runtime: Runtime) -> Audit:
    """Compare the arms' settings and records, seed by seed; a missing record is a fault.

    Raises:
        UserError: a record, or a file that it names, is damaged.
    """
    rows: list[LedgerRow] = []
    faults: list[str] = []
    for seed in study.seeds:
        arms = [arm for arm in study.all_arms() if arm.seed == seed]
        if not arms:
            continue  # published encoders alone: nothing was held equal here
        first = seed == study.seeds[0]
        declared = _declared(study, arms, rows if first else [])
        faults += declared if first else []
        faults += _measured(study, arms, runtime, rows, seed)
    return Audit(rows, faults + _stored(study, runtime))


def _declared(study: Study, arms: list[Arm], rows: list[LedgerRow]) -> list[str]:
    """Rows for every setting; a difference outside treatment and confounds is a fault."""
    settings = {arm.name: flatten(_settings(arm)) for arm in arms}
    paths = list(dict.fromkeys(path for flat in settings.values() for path in flat))
    faults = []
    for path in paths:
        values = {arm.name: settings[arm.name].get(path, "–") for arm in arms}
        row = _row(study, path, values, arms)
        rows.append(row)
        if not row.agrees:
            faults.append(f"{path} differs between arms and is no declared confound: {_spell(values)}")
    return faults


def _settings(arm: Arm) -> dict[str, Any]:
    encoder = arm.encoder
    hidden = {"infra", "corpus", "text", "after"}
    identity: dict[str, Any] = encoder.model_dump(mode="json", exclude=hidden)
    corpus = encoder.corpus.model_dump(mode="json", exclude={"infra"})
    text = "none" if encoder.text is None else encoder.text.describe()
    after = "none" if encoder.after is None else encoder.after.address()
    data = {**corpus.pop("source"), **corpus}
    return {"data": data, "text": text, "after": after, **identity}


def _row(study: Study, path: str, values: dict[str, str], arms: list[Arm]) -> LedgerRow:
    told = path == "captions" and any(arm.captions for arm in study.arms.values())
    if (told or path.startswith(TREATED)) and len(set(values.values())) > 1:
        because = "; ".join(f"{arm.name}: {arm.because}" for arm in arms) if path == "objective.kind" else ""
        return LedgerRow(path=path, role="treatment", values=values, why=because)
    if len(set(values.values())) == 1:
        return LedgerRow(path=path, role="control", values=values)
    confounds = [c for arm in arms for c in arm.confounds if path == c.path or path.startswith(f"{c.path}.")]
    if path.startswith("views."):
        confounds.append(_views_confound(study, path))
    why = "; ".join(dict.fromkeys(confound.why for confound in confounds))
    source = "; ".join(dict.fromkeys(confound.source for confound in confounds))
    return LedgerRow(
        path=path, role="confound", values=values, why=why, source=source, agrees=bool(confounds)
    )


def _views_confound(study: Study, path: str) -> Confound:
    """Views are made by ``arm_views`` alone, so what may differ at a level is known here."""
    strict = study.control.level == "strict"
    why = (
        "how many crops of which size is the objective's own; their augmentation is equal"
        if strict
        else INTRINSIC
    )
    return Confound(path=path, value=None, why=why, source="the objective's published views")


def _measured(study: Study, arms: list[Arm], runtime: Runtime, rows: list[LedgerRow], seed: int) -> list[str]:
    records: dict[str, PretrainRecord] = {}
    faults = []
    for arm in arms:
        record = arm.encoder.cached(runtime)
        if record is None:
            faults.append(f"{arm.name} (seed {seed}) has no record: run the study first")
        else:
            records[arm.name] = record
            if not arm.encoder.objective.trains_encoder and record.end != record.start:
                faults.append(f"{arm.name} (seed {seed}) moved the encoder that it was to leave as it was")
    for field, why in MEASURED.items():
        values = {name: str(getattr(record, field)) for name, record in records.items()}
        agrees = _agree(study, arms, records, field)
        rows.append(
            LedgerRow(path=f"{field} (seed {seed})", role="measured", values=values, why=why, agrees=agrees)
        )
        if not agrees:
            faults.append(f"{field} (seed {seed}) differs between arms: {_spell(values)}")
    return faults


def _agree(study: Study, arms: list[Arm], records: dict[str, PretrainRecord], field: str) -> bool:
    """Whether arms that must agree on a measured field do.

    They must unless what they are declared to differ in implies that they cannot: other captions are other
    data, another architecture has other weights, and an arm that follows another begins where that ended.
    """
    if study.control.level == "compute" and field in FEWER:
        return True
    groups: dict[str, set[str]] = {}
    for arm in arms:
        if arm.name not in records:
            continue
        value, encoder = str(getattr(records[arm.name], field)), arm.encoder
        follows = study.arms[arm.name].after
        if field == "start" and follows is not None:
            if follows in records and records[follows].end != value:
                return False
            continue
        implied = {
            "data": encoder.captions,
            "start": encoder.encoder.model_dump_json(),
            "encoder_parameters": encoder.encoder.model_dump_json(),
            "samples": encoder.budget.model_dump_json(),
            "order": encoder.budget.model_dump_json(),
        }
        groups.setdefault(implied.get(field, ""), set()).add(value)
    return all(len(values) == 1 for values in groups.values())


def _stored(study: Study, runtime: Runtime) -> list[str]:
    """Every record must have been made with the config that its stage has now."""
    names = {arm.encoder.address(): f"{arm.name} (seed {arm.seed})" for arm in study.all_arms()}
    faults = []
    for stage in walk(study.stages()):
        stored = stage.stored_config(runtime)
        if stored is None:
            continue
        if isinstance(stage, Pretrain) and stage.text is not None:
            record, now = stage.cached(runtime), stage.text.read_with(runtime)
            if record is not None and record.words != now:
                faults.append(
                    f"{names[stage.address()]} read its captions with weights {record.words[:16]}, which are "
                    f"{now[:16]} now: delete {stage.folder(runtime)} and run again"
                )
        made, wanted, address = flatten(stored), flatten(stage.identity()), stage.address()
        faults += [
            f"{names.get(address, address)} was made with {path} {made.get(path, '–')}, "
            f"but the study says {wanted.get(path, '–')}"
            for path in sorted(made.keys() | wanted.keys())
            if made.get(path) != wanted.get(path)
        ]
    return faults


def _spell(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def spell(found: Audit) -> str:
    """The ledger as text: what differs first, then what was measured, then what is equal."""
    titles = {
        "treatment": "Treatment (what is compared)",
        "confound": "Confounds (declared departures)",
        "measured": "Measured (as each run recorded it)",
        "control": "Control (equal for all arms)",
    }
    lines: list[str] = []
    for role, title in titles.items():
        rows = [row for row in found.rows if row.role == role]
        if not rows:
            continue
        lines += ["", title]
        for row in rows:
            equal = len(set(row.values.values())) == 1
            values = next(iter(row.values.values())) if equal else _spell(row.values)
            mark = " " if row.agrees else "!"
            lines.append(f"{mark} {row.path}: {values}")
            if row.why and role != "measured":
                lines.append(f"      {row.why}" + (f" ({row.source})" if row.source else ""))
    lines += ["", *(f"FAULT: {fault}" for fault in found.faults)]
    lines.append(
        "the arms differ where they must not"
        if found.faults
        else "all digests agree; every departure is declared"
    )
    return "\n".join(lines).lstrip("\n")
