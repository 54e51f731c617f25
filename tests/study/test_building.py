"""Several processes that want one index: one builds it, and the others find it."""

from concurrent.futures import ThreadPoolExecutor

from data.test_shards import write_shards

from paribus.data.shards import ShardsConfig
from paribus.study.corpora import build


def test_two_builds_of_one_index_agree(tmp_path):
    source = ShardsConfig(root=str(write_shards(tmp_path / "tars")))
    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(lambda _: build(source, tmp_path / "index", 1), range(3)))
    assert built[0] == built[1] == built[2]
    assert not (tmp_path / "index" / ".parts").exists()
