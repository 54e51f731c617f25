"""How lmms-eval scores Paribus' own tasks: by Paribus' rules. The tasks' YAML names these functions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paribus.types import NOTHING
from paribus.vqa import scoring
from paribus.vqa.benchmark import Question

Row = Mapping[str, Any]
"""A question as a task's table has it."""


def _question(row: Row) -> Question:
    return Question(
        index=0,
        question=row["prompt"],
        options=tuple(row["options"]),
        answer=row["answer"],
        category=row["category"],
        image=NOTHING,
        source=row["source"],
        key=row["key"],
        lettered=row["lettered"],
    )


def written(row: Row, results: Sequence[str]) -> dict[str, float]:
    """Whether a written answer is right, and whether it names no option or several."""
    parsed = scoring.score_texts(results[:1], [_question(row)])
    return {"acc": float(parsed.correct[0]), "unparsed": float(parsed.unparsed[0])}


def likeliest(row: Row, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Whether the right option is likelier than all others; a tie is wrong."""
    scores = -np.array([[loss for loss, _ in results]], dtype=np.float64)
    return {"acc": float(scoring.score(scores, [_question(row)])[0])}
