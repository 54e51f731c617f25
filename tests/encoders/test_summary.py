"""The class token alone: what a whole forward says of it, with its gradients, for less work."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from encoders.checkpoints import perturbed, photographs
from paribus.encoders.vision import EncoderConfig, VisionEncoder

SMALL = EncoderConfig(patch=8, width=32, depth=3, heads=4, mlp_ratio=3.0, image_size=32)


def both(config, keep):
    """Value and gradients of the whole forward's class token and of the summary, in double precision."""
    encoder, pixels = perturbed(VisionEncoder(config), 1).double(), photographs(count=6).double()
    found = []
    for see in (lambda: encoder(pixels, keep=keep).cls, lambda: encoder.summary(pixels, keep=keep)):
        encoder.zero_grad()
        value = see()
        value.pow(3).sum().backward()
        gradients = {n: p.grad for n, p in encoder.named_parameters() if p.numel() and p.grad is not None}
        found.append((value.detach(), {name: grad.clone() for name, grad in gradients.items()}))
    return found


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize(
    "changes",
    [{}, {"registers": 2}, {"pre_norm": True, "activation": "quick_gelu"}, {"pool": "map"}],
    ids=str,
)
def test_it_is_the_class_token_of_the_whole_and_so_are_its_gradients(changes, dropping):
    config = SMALL.model_copy(update=changes)
    keep = torch.rand(3, 6, 2, dtype=torch.float64) if dropping else None
    (whole, expected), (alone, found) = both(config, keep)
    torch.testing.assert_close(alone, whole, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    assert all(gradient.abs().max() > 0 for gradient in found.values())


def test_the_last_block_makes_no_other_token():
    encoder, pixels = VisionEncoder(SMALL), torch.rand(2, 3, 32, 32)
    counts = []
    for see in (encoder, encoder.summary):
        with FlopCounterMode(display=False) as counter:
            see(pixels)
        counts.append(counter.get_total_flops())
    tokens, width, hidden = 17, 32, 96
    saved = 2 * 2 * (tokens - 1) * (width * width + width * width + 2 * width * hidden)  # query, output, mlp
    saved += 2 * 2 * 2 * (tokens - 1) * tokens * width
    assert counts[0] - counts[1] == saved


def test_it_is_remembered_apart_from_the_whole():
    encoder, pixels = VisionEncoder(SMALL), torch.rand(2, 3, 32, 32)
    with encoder.remembering():
        first = encoder.summary(pixels)
        assert encoder.summary(pixels) is first
        assert encoder(pixels).cls is not first
    assert encoder.summary(pixels) is not first
