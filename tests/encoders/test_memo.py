"""Two objectives that look at the same pixels share one forward pass, and nothing else changes."""

import copy

import pytest
import torch

from encoders.checkpoints import perturbed, photographs
from paribus.encoders.vision import EncoderConfig, VisionEncoder, weights_digest

CONFIG = EncoderConfig(patch=8, width=32, depth=3, heads=4, mlp_ratio=3.0, image_size=32)


@pytest.fixture
def encoder():
    return perturbed(VisionEncoder(CONFIG), 1)


class Counted:
    """How often the encoder's first block ran."""

    def __init__(self, encoder):
        self.forwards = 0
        encoder.blocks[0].register_forward_hook(self._count)

    def _count(self, *_):
        self.forwards += 1


def test_the_second_look_at_the_same_pixels_is_the_first_ones_result(encoder):
    count, views = Counted(encoder), photographs(count=8).view(4, 2, 3, 32, 32)
    with encoder.remembering():
        first = encoder(views[:, 0])
        assert encoder(views[:, 0]) is first, "another view of the same memory, made anew"
        assert count.forwards == 1
        assert encoder(views[:, 1]) is not first and encoder(views[:, 0].clone()) is not first
        assert count.forwards == 3
        assert encoder(views[:, 0], layer=-2) is not first
        assert count.forwards == 4
    assert encoder.memo is None
    encoder(views[:, 0])
    encoder(views[:, 0])
    assert count.forwards == 6, "nothing is remembered outside"


def test_gradients_of_both_uses_add_up_to_those_of_two_forwards(encoder):
    twin, pixels = copy.deepcopy(encoder), photographs(count=6)
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(3))

    def losses(model):
        return model(pixels).cls.square().sum(), (model(pixels).patches * weight).sum().tanh()

    with encoder.remembering():
        sum(losses(encoder)).backward()
    for loss in losses(twin):
        loss.backward()
    for (name, ours), theirs in zip(encoder.named_parameters(), twin.parameters(), strict=True):
        if ours.numel():
            assert theirs.grad.abs().max() > 0, name
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4), name


def test_what_may_differ_is_not_shared(encoder):
    pixels = photographs(count=4)
    with encoder.remembering():
        with torch.no_grad():
            blind = encoder(pixels)
        seeing = encoder(pixels)
        assert seeing.cls.requires_grad and not blind.cls.requires_grad
        keep = torch.ones(3, 4, 2)
        dropped = encoder(pixels, keep=keep * 0)
        assert encoder(pixels) is seeing and not torch.equal(dropped.cls, seeing.cls)
        assert encoder(pixels, keep=keep) is not seeing
        pixels.mul_(0.5)
        assert encoder(pixels) is not seeing, "the same memory with other pixels in it"
        with torch.autocast("cpu", torch.bfloat16):
            rounded = encoder(pixels)
        assert encoder(pixels) is not rounded


def test_memory_is_not_given_to_other_pixels_while_it_is_remembered(encoder):
    """Tensors that die at once would lend their address to the next ones."""
    with encoder.remembering(), torch.no_grad():
        out = [encoder(photographs(count=2) * share).cls for share in (0.2, 0.5, 0.8)]
        assert not torch.equal(out[0], out[1]) and not torch.equal(out[1], out[2])


def test_pixels_without_memory_are_told_apart_too():
    """Cost is counted on the meta device, where every address is 0."""
    with torch.device("meta"):
        encoder = VisionEncoder(CONFIG)
        one, other = torch.empty(2, 3, 32, 32), torch.empty(2, 3, 32, 32)
    count = Counted(encoder)
    with encoder.remembering():
        encoder(one), encoder(other), encoder(one)
    assert count.forwards == 2


def test_an_error_forgets_and_blocks_nest(encoder):
    pixels = photographs(count=2)
    with encoder.remembering():
        outer = encoder(pixels)
        with pytest.raises(RuntimeError), encoder.remembering():
            assert encoder(pixels) is not outer
            raise RuntimeError
        assert encoder(pixels) is outer
    assert encoder.memo is None


def test_the_memo_is_no_part_of_the_state(encoder):
    digest = weights_digest(encoder)
    with encoder.remembering():
        encoder(photographs(count=2))
        assert weights_digest(encoder) == digest
        assert "memo" not in encoder.state_dict()


def test_inference_tensors_are_remembered(encoder):
    with torch.inference_mode(), encoder.remembering():
        pixels = photographs(count=2) * 1.0
        assert encoder(pixels) is encoder(pixels)
