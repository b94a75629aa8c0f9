"""Shipped configs are found in an installed package, where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib


def test_an_installed_package_finds_the_configs_it_carries(repo, tmp_path):
    wheel = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]
    inside = wheel["wheel"]["sources"]["configs"]
    assert "configs" in wheel["wheel"]["only-include"]
    package = tmp_path / "site" / "resdet"
    for name in ("config", "files", "ops"):
        shutil.copytree(repo / "resdet" / name, package / name)
    shutil.copytree(repo / "configs", tmp_path / "site" / inside)
    for name in ("__init__.py", "errors.py", "version.py"):
        shutil.copyfile(repo / "resdet" / name, package / name)
    code = (
        "import resdet; from resdet.config import load_config; print(resdet.__file__); "
        "print(load_config('configs/coco_mask_rcnn_r101.yaml').model.backbone.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(package / "__init__.py"), "resnet101"]
