"""Training a classifier on a CSV file and validating on parquet equals both from class folders."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet as pq
import pytest

import resdet
from tests.engine.cls_data import FOLDER_YAML, write_folders
from tests.engine.conftest import log_of, losses_of


def test_tables_train_as_folders_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))
    data = write_folders(tmp_path / "data")
    config = tmp_path / "tiny.yaml"
    config.write_text(FOLDER_YAML.format(root=data).replace("every: 0", "every: 2"))
    by_folders = resdet.train(config, ["train.max_steps=2"], run_dir=tmp_path / "a", device="cpu")
    found = sorted((data / "train").glob("*/*.png"))
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}\n" for path in found]
    (tmp_path / "train.csv").write_text("".join(["image,class\n", *lines]))
    records = []
    for path in sorted((data / "val").glob("*/*.png")):
        content = io.BytesIO(path.read_bytes()).getvalue()
        records.append({"image": {"bytes": content, "path": path.name}, "label": path.parent.name})
    pq.write_table(pyarrow.Table.from_pylist(records), tmp_path / "val.parquet")
    keys = [
        f"data.train={{table: {tmp_path}/train.csv}}",
        f"data.val={{table: {tmp_path}/val.parquet}}",
    ]
    by_tables = resdet.train(
        config, ["train.max_steps=2", *keys], run_dir=tmp_path / "b", device="cpu"
    )
    assert losses_of(by_tables) == losses_of(by_folders)
    evals = [
        [line["eval"] for line in log_of(run) if "eval" in line] for run in (by_tables, by_folders)
    ]
    assert evals[0] == evals[1] and len(evals[0]) == 1
    assert json.loads((by_tables / "eval.json").read_text())["num_images"] == 18
