"""The boundary, on outcomes that were planted."""

import numpy as np
import pytest

from paribus import stats
from paribus.objectives.clip import Clip
from paribus.objectives.dino import Dino
from paribus.objectives.dinotxt import DinoTxt
from paribus.probes.metrics import accuracy, estimate
from paribus.study.abilities import Ability, Asked
from paribus.study.control import Treatment
from paribus.study.mapping import LANGUAGE, VISION, Sides, ability_map, sides_of

N = 300


def _asked(rights: dict[str, float], seed: int, tasks: dict[str, np.ndarray] | None = None) -> Asked:
    """An encoder that is right so often at each task."""
    rng = np.random.default_rng(seed)
    results, tallies = [], {}
    for task, share in rights.items():
        right = tasks[task] if tasks else rng.random(N) < share
        tally = accuracy(right)
        found = estimate(tally, seed=0)
        tallies[task] = tally
        results.append(
            Ability(
                task=task, metric="accuracy", value=found.value, low=found.low, high=found.high,
                n=N, unit="concepts", chance=0.1, kind="ratio",
            )
        )  # fmt: skip
    return Asked(results, tallies)


SIDES = Sides("language", "pictures", {"a": "language", "b": "language", "c": "pictures", "d": "pictures"})


@pytest.fixture
def planted():
    """Two encoders a side: language is better at reading, pictures at style, neither at counting."""
    return {
        "a": _asked({"reading": 0.7, "style": 0.4, "counting": 0.5}, 1),
        "b": _asked({"reading": 0.72, "style": 0.42, "counting": 0.5}, 2),
        "c": _asked({"reading": 0.5, "style": 0.6, "counting": 0.5}, 3),
        "d": _asked({"reading": 0.52, "style": 0.62, "counting": 0.5}, 4),
    }


def test_the_boundary_is_found_where_it_was_planted(planted):
    found = ability_map(planted, SIDES, 0.03, 0)
    rows = {row.task: row for row in found.rows}
    assert rows["reading"].verdict == "one leads" and rows["style"].verdict == "two leads"
    assert rows["counting"].verdict in ("the same", "no difference can be claimed")
    assert found.sides == {"language": ["a", "b"], "pictures": ["c", "d"]}
    assert rows["reading"].leader in ("a", "b") and "c" not in rows["reading"].tied
    assert not found.left_out and found.others == []


def test_a_step_is_the_difference_of_the_sides_means(planted):
    row = ability_map(planted, SIDES, 0.03, 0).rows[0]
    value = {name: row.values[name].value for name in row.values}
    assert row.step.value == pytest.approx((value["a"] + value["b"] - value["c"] - value["d"]) / 2, abs=1e-8)
    units = [np.asarray(planted[name].tallies["reading"].sums.todense())[:, 0] for name in "abcd"]
    wanted = stats.bootstrap_mean((units[0] + units[1] - units[2] - units[3]) / 2, seed=0)
    assert (row.step.low, row.step.high) == pytest.approx((wanted.low, wanted.high), abs=1e-8)


def test_p_values_are_corrected_over_all_tasks(planted):
    rows = ability_map(planted, SIDES, 0.03, 0).rows
    np.testing.assert_allclose([row.p_holm for row in rows], stats.holm(np.array([row.p for row in rows])))


def test_no_difference_is_claimed_where_there_is_none():
    """Of 40 maps without any difference, hardly one claims a lead: Holm holds 5% for all tasks together."""
    sides = Sides("one", "two", {"a": "one", "b": "two"})
    claimed = 0
    for seed in range(40):
        asked = {
            name: _asked({f"task {k}": 0.5 for k in range(8)}, 1000 * seed + place)
            for place, name in enumerate("ab")
        }
        rows = ability_map(asked, sides, 0.03, seed).rows
        claimed += any(row.verdict in ("one leads", "two leads") for row in rows)
        assert all(row.tied for row in rows if row.verdict not in ("one leads", "two leads"))
    assert claimed <= 6  # 2 are expected; more than 6 have a chance of 0.3%


def test_a_leader_is_tested_against_all_it_could_have_been():
    """Of 30 maps of six equal encoders, hardly one says that some can be told from the leader."""
    told = 0
    for seed in range(30):
        asked = {
            name: _asked({f"task {k}": 0.5 for k in range(5)}, 1000 * seed + place)
            for place, name in enumerate("abcdef")
        }
        told += any(len(row.tied) < 5 for row in ability_map(asked, Sides(), 0.03, seed).rows)
    assert told <= 6  # 1.5 are expected; more than 6 have a chance of 0.1%


def test_what_nobody_can_do_is_not_the_same_for_certain():
    few = np.zeros(56, bool)
    asked = {}
    for name in "ab":
        tally = accuracy(few)
        ability = Ability(
            task="x", metric="accuracy", value=0.0, low=0.0, high=0.0,
            n=56, unit="words", chance=0.0, kind="ratio",
        )  # fmt: skip
        asked[name] = Asked([ability], {"x": tally})
    row = ability_map(asked, Sides("one", "two", {"a": "one", "b": "two"}), 0.03, 0).rows[0]
    assert row.verdict == "no difference can be claimed" and row.p_same == 1.0


def test_sameness_needs_its_own_proof():
    right = np.random.default_rng(0).random(N) < 0.5
    same = {"a": _asked({"x": 0}, 0, {"x": right}), "b": _asked({"x": 0}, 0, {"x": right})}
    sides = Sides("one", "two", {"a": "one", "b": "two"})
    row = ability_map(same, sides, 0.03, 0).rows[0]
    assert (row.verdict, row.p_same, row.tied) == ("the same", 0.0, ["b"])
    few = np.arange(N) < N // 2
    other = {"a": _asked({"x": 0}, 0, {"x": right}), "b": _asked({"x": 0}, 0, {"x": few})}
    assert ability_map(other, sides, 0.005, 0).rows[0].verdict == "no difference can be claimed"


def test_equivalence_is_that_of_a_z_test():
    rng = np.random.default_rng(3)
    a, b = rng.random(N) < 0.5, rng.random(N) < 0.5
    asked = {"a": _asked({"x": 0}, 0, {"x": a}), "b": _asked({"x": 0}, 0, {"x": b})}
    row = ability_map(asked, Sides("one", "two", {"a": "one", "b": "two"}), 0.1, 0).rows[0]
    assert row.p_same == pytest.approx(stats.tost(a, b, 0.1), rel=0.35)


def test_without_sides_there_is_a_leader_and_no_boundary(planted):
    found = ability_map(planted, Sides(), 0.03, 0)
    assert found.one == "" and all(row.step is None and row.verdict is None for row in found.rows)
    assert {row.leader for row in found.rows} <= set("abcd")


def test_who_was_not_asked_is_told(planted):
    planted["d"] = _asked({"reading": 0.5}, 9)
    found = ability_map(planted, SIDES, 0.03, 0)
    assert found.left_out == {"style": ["d"], "counting": ["d"]}
    assert "d" not in found.rows[1].values


def _treatment(objective, **settings):
    return Treatment(objective=objective, because="a test", **settings)


def test_sides_are_what_taught_the_encoder():
    slip = Treatment.model_validate({"objective": {"preset": "slip"}, "because": "a test"}).objective
    arms = {
        "words": _treatment(Clip.Config()),
        "pictures": _treatment(Dino.Config()),
        "both": _treatment(slip),
        "afterwards": _treatment(DinoTxt.Config(), after="pictures"),
    }
    assert sides_of(arms) == Sides(LANGUAGE, VISION, {"words": LANGUAGE, "pictures": VISION})
