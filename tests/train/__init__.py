"""A training of a few seconds, for processes that are killed on purpose; it imports no more than it needs."""

from pathlib import Path

from objectives import tiny_loader, tiny_objective

from paribus.train.loop import fit
from paribus.types import Budget, Recipe, Runtime

STEPS, BATCH, LONG = 8, 6, 60
RECIPE = Recipe(lr=5e-3, final_lr=1e-5, warmup=0.2, weight_decay=0.1, final_weight_decay=0.3, clip=1.0)


def train_long(folder):
    """Sixty steps of DINO, a checkpoint after each: the objective and what ``fit`` said."""
    objective = tiny_objective("dino")
    result = fit(
        objective,
        tiny_loader("dino", batch=BATCH),
        recipe=RECIPE,
        budget=Budget(samples=LONG * BATCH, batch=BATCH),
        precision="fp32",
        folder=Path(folder),
        runtime=Runtime(device="cpu", checkpoint_seconds=0.0),
        label="pretrain dino",
    )
    return objective, result
