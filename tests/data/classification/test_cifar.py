"""CIFAR's batches: the official layout, splits, hostile files, and the real images."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from resdet.data.classification.cifar import is_cifar, load_cifar
from resdet.files.findings import DataError
from tests.engine.cls_data import write_cifar10


@pytest.fixture
def cifar10(tmp_path):
    return write_cifar10(tmp_path / "data")


def test_the_two_splits(cifar10):
    train, test = (load_cifar("cifar10", cifar10, train=part) for part in (True, False))
    assert (len(train), len(test)) == (100, 20)
    assert train.images.shape == (100, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert train.class_names[3] == "class3"
    batch = pickle.loads((cifar10 / "cifar-10-batches-py/data_batch_2").read_bytes())
    expected = batch[b"data"][4].reshape(3, 32, 32)
    assert np.array_equal(train.images[24], expected)
    assert np.array_equal(train.read(24), expected.transpose(1, 2, 0))
    assert train.labels[24] == batch[b"labels"][4]
    assert train.name(24) == "cifar10 train image 24"


def test_the_last_images_are_held_out(cifar10):
    kept = load_cifar("cifar10", cifar10, train=True, holdout=30)
    held = load_cifar("cifar10", cifar10, train=True, holdout=30, held_out=True)
    whole = load_cifar("cifar10", cifar10, train=True)
    assert torch.equal(torch.cat([kept.images, held.images]), whole.images)
    assert held.name(0) == "cifar10 train image 70"
    with pytest.raises(DataError, match="holdout: 100 of 100 training images leaves none"):
        load_cifar("cifar10", cifar10, train=True, holdout=100)


def test_cifar100_in_its_layout(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    batch = {b"data": np.zeros((4, 3072), np.uint8), b"fine_labels": [0, 99, 5, 5]}
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = [f"c{k}".encode() for k in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": names}, protocol=2))
    assert is_cifar(tmp_path) == "cifar100"
    assert load_cifar("cifar100", tmp_path, train=False).labels.tolist() == [0, 99, 5, 5]


def test_a_batch_is_a_gather(cifar10):
    data = load_cifar("cifar10", cifar10, train=True)
    batch = data.batch([(3, 7), (3, 1)])
    assert torch.equal(batch.images, data.images[[7, 1]])
    assert batch.labels.tolist() == data.labels[[7, 1]].tolist()
    assert batch.keys == [(3, 7), (3, 1)]


def test_a_missing_archive_says_where_it_comes_from(tmp_path):
    with pytest.raises(DataError, match=r"no cifar-10-batches-py/ in it.*data.download=true"):
        load_cifar("cifar10", tmp_path, train=True)


def test_a_download_without_network_names_the_address(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "absent.tar.gz").as_uri())
    with pytest.raises(DataError, match="cannot download cifar10"):
        load_cifar("cifar10", tmp_path / "new", train=True, download=True)


@pytest.fixture
def served(tmp_path):
    """A folder, and the address under which it is served to this machine alone."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_download_unpacks_what_it_checked(cifar10, served, tmp_path, monkeypatch):
    folder, address = served
    archive = folder / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar10 / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "url", f"{address}/{archive.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    data = load_cifar("cifar10", tmp_path / "new", train=True, download=True)
    assert len(data) == 100
    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(DataError, match="cannot download cifar10"):
        load_cifar("cifar10", tmp_path / "other", train=True, download=True)


class _Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(_Hostile()), "system, which is refused"),
        (b"", "not a sound CIFAR file"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({b"labels": [1]}), "no images and labels"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}), "2 images and 1"),
        (
            pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}),
            "image 0 has label 10, and there are 10 classes",
        ),
    ],
)
def test_a_bad_file_is_named(cifar10, monkeypatch, content, message):
    monkeypatch.chdir(cifar10)
    bad = cifar10 / "cifar-10-batches-py/data_batch_3"
    bad.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load_cifar("cifar10", cifar10, train=True)
    assert "data_batch_3" in str(error.value)
    assert not (cifar10 / "hostile").exists()


@pytest.mark.slow
def test_the_real_images(shared_data, tmp_path):
    script = shared_data / "cifar10/unpack.py"
    subprocess.run([sys.executable, str(script), "lossless", str(tmp_path)], check=True)
    data = load_cifar("cifar10", tmp_path, train=True)
    assert len(data) == 50_000
    assert np.bincount(data.labels).tolist() == [5000] * 10
    # the training set's published mean, as fractions of 1
    mean = data.pixel_mean().mean((1, 2)) / 255
    assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
