"""Pairs on which two encoders disagree: ours over all pairs, beside the published way with FAISS.

The published script searches each encoder's 2,048 nearest of every picture exactly (IndexFlatIP, k = 2,048)
and then looks among them for pairs that the other encoder does not find alike. Ours looks at every pair of
both encoders; so FAISS's side is its two searches alone, and nothing of what would follow. Features share
structure, as encoders' do. Needs faiss-cpu, which nothing else does: install it with pip's --target DIR.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

WIDTH, NEAREST, WARM = 768, 2_048, 2_100


def features(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two encoders of so many pictures, float32: half of what each sees is common to both."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(count, 64)).astype(np.float32)
    made = []
    for _ in range(2):
        hidden = np.concatenate([common, rng.normal(size=(count, 64)).astype(np.float32)], axis=1)
        mix = rng.normal(size=(128, WIDTH)).astype(np.float32)
        made.append(hidden @ mix + 3.0 * rng.normal(size=(1, WIDTH)).astype(np.float32))
    return made[0], made[1]


def ours(a: np.ndarray, b: np.ndarray) -> int:
    """Pairs kept of all that there are."""
    from paribus.analysis.disagreement import mine

    return len(mine(a, b, keep=1_000).a_high.left)


def published(a: np.ndarray, b: np.ndarray) -> int:
    """Both encoders' nearest."""
    import faiss

    for rows in (a, b):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        index = faiss.IndexFlatIP(WIDTH)
        index.add(unit)
        for at in range(0, len(unit), 10_000):
            index.search(unit[at : at + 10_000], NEAREST)
    return 0


SIDES = {"ours": ours, "faiss": published}


def measure(side: str, count: int) -> None:
    """In a process of its own, for its memory: seconds, and megabytes beyond the features."""
    SIDES[side](*features(WARM))  # imports, and whatever is made once
    a, b = features(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    SIDES[side](a, b)
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": took, "cpu": cpu, "mb": peak / 1024, "before": before / 1024}))


def run(side: str, count: int, faiss: str) -> dict[str, float]:
    path = os.pathsep.join(filter(None, [faiss, os.environ.get("PYTHONPATH")]))
    line = [sys.executable, __file__, "--measure", side, "--sizes", str(count)]
    done = subprocess.run(
        line, env=os.environ | {"PYTHONPATH": path}, check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 10_000, 20_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--faiss", default="", help="the folder that faiss-cpu was installed into")
    parser.add_argument("--measure", choices=SIDES)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.sizes[0])
        return
    sides = ["ours", "faiss"]
    try:
        run("faiss", WARM, given.faiss)
    except subprocess.CalledProcessError:
        print("faiss-cpu is not installed (see --faiss): ours alone")
        sides = ["ours"]
    for count in given.sizes:
        found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(given.rounds):
            for side in sides:
                found[side].append(run(side, count, given.faiss))
        pairs = count * (count - 1) / 2
        took = {side: statistics.median(one["seconds"] for one in found[side]) for side in sides}
        cpu = {side: statistics.median(one["cpu"] for one in found[side]) for side in sides}
        peak = {side: max(one["mb"] for one in found[side]) for side in sides}
        told = ", ".join(
            f"{side} {pairs / took[side]:,.0f} pairs/s, {took[side]:.1f} s, "
            f"{cpu[side]:.1f} s of processors, {peak[side]:,.0f} MB"
            for side in sides
        )
        of = [each["faiss"] / each["ours"] for each in (took, cpu) if "faiss" in each]
        ratio = f"ratio {of[0]:.2f}, of processors' time {of[1]:.2f} " if of else ""
        print(f"mining {count:,} pictures {ratio}({told})", flush=True)


if __name__ == "__main__":
    main()
