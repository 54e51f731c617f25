"""A language model that sees, tiny and in float64, with all that is awkward: ties, frozen parts, odd rows.

Some samples have no picture, some no reply, and some matrices fewer rows than there are processes.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from paribus.objectives.base import Objective
from paribus.peers import mend_torchvision
from paribus.train import distributed
from paribus.train.loop import fit
from paribus.types import Batch, Budget, Losses, Recipe, Runtime

BATCH, STEPS = 5, 7
RECIPE = Recipe(lr=5e-3, warmup=0.2, weight_decay=0.1, clip=0.5, rates={"connector": 1e-2})


def norms_in_float64(module):
    """transformers' RMSNorm rounds to float32 inside, which would hide what is compared."""
    for name, child in list(module.named_children()):
        if type(child).__name__ == "LlamaRMSNorm":
            norm = nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon)
            norm.weight = child.weight
            setattr(module, name, norm)
        norms_in_float64(child)


class Words(Objective):
    """Mean negative log-likelihood of what comes after ``|``; ``#`` in front shows a picture."""

    additive = True

    def __init__(self, frozen=(), width=16, hidden=20, dtype=torch.float64):
        super().__init__()
        mend_torchvision()
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=67, hidden_size=width, intermediate_size=hidden, num_hidden_layers=3,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
            tie_word_embeddings=True,
        )  # fmt: skip
        self.language = LlamaForCausalLM(config)
        norms_in_float64(self.language)
        self.eye = nn.Linear(12, 10)
        self.connector = nn.Sequential(nn.Linear(10, 1), nn.Linear(1, width))
        self.registers = nn.Parameter(torch.zeros(1, 0, width))
        self.register_buffer("seen", torch.zeros(3))
        self.to(dtype)
        self.eye.requires_grad_(False)
        for name, parameter in self.named_parameters():
            if any(part in name for part in frozen):
                parameter.requires_grad_(False)
        self.passes, self.forwards, self.held, self.slopes = 0, 0, set(), []
        self.language.model.layers[1].self_attn.register_forward_hook(self._count)

    def _count(self, *_):
        self.forwards += 1

    def encoder(self):
        return self.language

    def blocks(self):
        return list(self.language.model.layers)

    def economise(self):
        with warnings.catch_warnings(category=FutureWarning, action="ignore"):  # a new name is coming
            self.language.gradient_checkpointing_enable({"use_reentrant": False})

    def lengths(self, batch):
        return [len(text) for text in batch.texts]

    def terms(self, batch):
        return sum(len(text.partition("|")[2]) for text in batch.texts)

    def encode(self, batch):
        self.passes += 1
        width = max(map(len, batch.texts))
        ids = torch.tensor([[ord(c) % 67 for c in text.ljust(width)] for text in batch.texts])
        words = self.language.get_input_embeddings()(ids)
        shown = torch.tensor([row for row, text in enumerate(batch.texts) if text.startswith("#")])
        if len(shown):
            pictures = batch.views["image"][shown].flatten(1).to(words.dtype)
            spots = words.new_zeros(words.shape[:2])
            spots[shown, 0] = 1.0
            seen = words.new_zeros(len(words), words.shape[2]).index_add(
                0, shown, self.connector(self.eye(pictures)).to(words.dtype)
            )
            words = words + spots[:, :, None] * seen[:, None] + self.registers.sum()
        hidden = self.language.model(inputs_embeds=words, use_cache=False).last_hidden_state
        said = self.language.lm_head(hidden[:, :-1]).log_softmax(dim=-1)
        nll = -said.gather(2, ids[:, 1:, None])[..., 0]
        starts = torch.tensor([text.find("|") % (width + 1) for text in batch.texts])
        stops = torch.tensor([len(text) for text in batch.texts])
        place = torch.arange(1, width)
        target = (place > starts[:, None]) & (place < stops[:, None])
        return {"nll": (nll * target).sum(dim=1), "terms": target.sum(dim=1)}

    def loss(self, encoded, clock):
        total = encoded["nll"].sum() / encoded["terms"].sum()
        return Losses(total, {"nll": total.detach()})

    def before_step(self, clock):
        gradients = [p.grad for p in self.parameters() if p.grad is not None and p.numel()]
        self.slopes.append([distributed.whole(gradient).norm().item() for gradient in gradients])

    def after_step(self, clock):
        self.seen += 1.0
        self.held.add(sum(distributed.own(p).numel() for p in self.parameters()))


def batch_of(step):
    """Five samples: in the second step the last two have no reply, in the third none has a picture."""
    rng = np.random.default_rng(step)
    letters = ["".join(rng.choice(list("abcdefgh"), rng.integers(2, 9))) for _ in range(2 * BATCH)]
    texts = [
        f"{'#' * (row % 2 == 0 and step % 3 != 2)}{ask}|{reply * (row < 3 or step != 1)}"
        for row, (ask, reply) in enumerate(zip(letters[::2], letters[1::2], strict=True))
    ]
    image = torch.from_numpy(rng.normal(size=(BATCH, 1, 3, 2, 2)))
    return Batch(np.arange(BATCH, dtype=np.uint64) + BATCH * step, {"image": image}, texts, [()] * BATCH)


class StopError(Exception):
    """What a test raises in place of a power cut."""


def train(
    folder,
    objective=None,
    *,
    stop=None,
    steps=STEPS,
    recipe=RECIPE,
    precision="fp32",
    runtime=None,
    **settings,
):
    """Train this process's rows, cut off before step ``stop``: the objective, and what ``fit`` said."""
    torch.set_num_threads(1)
    objective = Words(**settings) if objective is None else objective

    def batches(start, end):
        for step in range(start, end):
            if step == stop:
                raise StopError
            yield batch_of(step)[distributed.share().rows(BATCH)]

    result = None
    try:
        result = fit(
            objective,
            batches,
            recipe=recipe,
            budget=Budget(samples=steps * BATCH, batch=BATCH),
            precision=precision,
            folder=Path(folder),
            runtime=Runtime(device="cpu", checkpoint_seconds=0.0, **(runtime or {})),
            label="words",
        )
    except StopError:
        assert stop is not None
    return objective, result


def state_of(objective):
    """Weights and buffers, as what one process can tell another."""
    return {name: value.numpy().copy() for name, value in objective.state_dict().items()}


def trained(folder, **settings):
    """The weights and losses of a whole training, and what the objective noted."""
    objective, result = train(folder, **settings)
    notes = {name: getattr(objective, name) for name in ("passes", "forwards", "held", "slopes")}
    return state_of(objective), [line["loss"] for line in result.history], notes
