"""compress.py from its command line to its page, for a network of classes and for one of masks."""

from __future__ import annotations

import warnings

import pytest

import compress
from tests.classification import test_data, test_scripts
from tests.scenes import untimed
from tests.segmentation import test_scripts as masks
from utils.darknet.network import load_checkpoint
from utils.reporting.results import read_rows

QUICK = "--cfg net.cfg --data set --workers 0 --epochs 2 --sparse-epochs 1 --finetune-epochs 1 --percent 0.3 --s 0.01"


@pytest.mark.parametrize(
    ("task", "columns"),
    [("classes", {"top1": "top-1", "top5": "top-5"}), ("masks", {"miou": "mIoU", "accuracy": "pixels"})],
)
def test_the_chain_ends_in_spikes_and_a_page_in_the_words_of_its_task(task, columns, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    untimed(monkeypatch)
    if task == "classes":
        test_data.write_set(tmp_path / "set", size=32)
    else:
        masks.write_set(tmp_path / "set")
    (tmp_path / "net.cfg").write_text(test_scripts.CFG if task == "classes" else masks.CFG)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of a picture whose words do not fit into it
        record = compress.run(compress.parser().parse_args([*QUICK.split(), "--max-drop", "0.99"]))
    stages = record.metrics["stages"]
    assert [*stages] == ["baseline", "sparse", "pruned", "finetuned", "quantised", "spiking"]
    assert stages["pruned"]["params"] < stages["sparse"]["params"]
    assert load_checkpoint(record.outputs[5]["path"]).kind == "spiking"
    page, table = (record.folder / "report.html").read_text(), caplog.text.rpartition("compress---")[2]
    for name, heading in columns.items():
        assert stages["spiking"][name] == stages["quantised"][name]
        assert f">{heading}<" in page and heading in table
    assert "strategy soft" in page and "--KDstr soft" in caplog.text and "objectness" not in page
    names = load_checkpoint("weights/last_compress-baseline.pt").names
    assert [row["class"] for row in read_rows(record.folder / "classes.csv")] == [*names]
