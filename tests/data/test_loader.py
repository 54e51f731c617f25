"""What step k holds depends on (seed, k) only: not on workers, look-ahead, or where the run began."""

import threading

import numpy as np
import pytest
import torch
from objectives import CAPTIONS, Photos, tiny_config

from paribus.data.loader import Loader
from paribus.rng import key_id
from paribus.train.loop import chain

VIEWS = tiny_config("dino").views()


def loader(source=None, **changes):
    settings = {"image_size": 16, "batch": 7, "seed": 5} | changes
    return Loader(Photos() if source is None else source, VIEWS, **settings)


def equal(a, b):
    return (
        np.array_equal(a.ids, b.ids)
        and list(a.texts) == list(b.texts)
        and list(a.turns) == list(b.turns)
        and a.seed == b.seed
        and a.views.keys() == b.views.keys()
        and all(torch.equal(a.views[name], b.views[name]) for name in a.views)
    )


@pytest.mark.parametrize(
    "changes", [{"workers": 1}, {"workers": 3}, {"workers": 3, "ahead": 9}, {"ahead": 0}]
)
def test_every_step_is_the_same_from_any_start(changes):
    whole = list(loader()(0, 14))
    assert len(whole) == 14
    again = list(loader(**changes)(5, 14))
    assert all(equal(a, b) for a, b in zip(whole[5:], again, strict=True))


def test_batches_run_over_epochs_and_each_epoch_sees_all():
    ids = np.concatenate([batch.ids for batch in loader()(0, 12)])
    every = np.sort(np.array([key_id(f"piece/{i}") for i in range(40)], dtype=np.uint64))
    assert np.array_equal(np.sort(ids[:40]), every)
    assert np.array_equal(np.sort(ids[40:80]), every)
    assert not np.array_equal(ids[:40], ids[40:80])


def test_the_second_epoch_crops_anew():
    made = loader(batch=40)
    first, second = made.make(0), made.make(1)
    a, b = np.argsort(first.ids), np.argsort(second.ids)
    views = [first.views["global1"][torch.from_numpy(a)], second.views["global1"][torch.from_numpy(b)]]
    assert not any(torch.equal(x, y) for x, y in zip(*views, strict=True))


def test_rows_belong_together():
    batch = loader().make(3)
    by_id = {key_id(f"piece/{i}"): CAPTIONS[i] for i in range(40)}
    for number, text in zip(batch.ids, batch.texts, strict=True):
        assert text.startswith(by_id[int(number)])
    assert all(view.shape[:1] == (7,) for view in batch.views.values())
    assert len({loader().make(step).seed for step in range(20)}) == 20


def test_the_digest_of_the_order_tells_orders_apart():
    def digest(batches):
        value = ""
        for batch in batches:
            value = chain(value, batch.ids)
        return value

    one, same, other = loader()(0, 6), loader(workers=3)(0, 6), loader(seed=6)(0, 6)
    assert digest(one) == digest(same) != digest(other)
    swapped = list(loader()(0, 6))
    swapped[1], swapped[2] = swapped[2], swapped[1]
    assert digest(swapped) != digest(loader()(0, 6))


def test_leaving_early_ends_the_threads():
    before = threading.active_count()
    batches = loader(workers=3)(0, 1000)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_an_error_in_the_source_comes_out_at_its_step():
    class Broken(Photos):
        def __getitem__(self, index, /):
            if index == broken:
                raise OSError("cannot read this one")
            return super().__getitem__(index)

    order = loader().order
    broken = int(order(np.array([2 * 7 + 3], dtype=np.int64))[0][0])
    batches = loader(Broken())(0, 5)
    first = [next(batches), next(batches)]
    assert all(equal(a, b) for a, b in zip(first, loader()(0, 2), strict=True))
    with pytest.raises(OSError, match="cannot read this one"):
        next(batches)
