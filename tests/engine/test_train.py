"""The thread from a config to metrics, in one process."""

import json
import multiprocessing
import subprocess
import sys

import pytest
import torch

import resdet
from resdet.config.loading import load_config
from resdet.data.workers import PREFETCHED, LoaderError
from resdet.engine import train as train_module
from resdet.engine.evaluate_detection import evaluate_run
from resdet.engine.watch import NonFiniteError
from resdet.errors import UserError
from resdet.files import checkpoint
from tests.engine.conftest import assert_same_end, log_of, losses_of

FULL = ["train.ema_decay=0.9", "optim.clip_norm=1.0", "train.accumulate=2"]


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A run with everything on: averages, clipping, two parts a step, TensorBoard."""
    folder = tmp_path_factory.mktemp("runs") / "full"
    return resdet.train(tiny.config, [*FULL, "log.tensorboard=true"], run_dir=folder, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def figures(finished, blank_figures):
    """The first run's are drawn, as for users."""


def test_the_folder_holds_what_was_promised(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {"config.yaml", "log.jsonl", "tensorboard", "last.pt", "best.pt", "eval.json"}
    plots = {path.name for path in (finished / "plots").iterdir()}
    assert plots >= {
        "losses.png",
        "lr.png",
        "metrics.png",
        "train_batch1.jpg",
        "val_predictions.jpg",
    }
    assert not list(finished.rglob("*.tmp"))


def test_a_line_a_step_and_one_a_validation(finished):
    lines = log_of(finished)
    train = [line for line in lines if "loss" in line]
    assert [line["step"] for line in train] == [1, 2, 3, 4]
    for line in train:
        parts = [value for key, value in line.items() if key.startswith("loss_")]
        assert len(parts) == 5
        assert line["loss"] == pytest.approx(sum(parts), rel=1e-6)
        assert line.keys() >= {"epoch", "lr", "images_per_s", "memory_mb", "grad_norm"}
    assert train[0]["lr"] == pytest.approx(0.02 * 0.001)
    assert [line["epoch"] for line in train] == [0.2, 0.4, 0.6, 0.8]
    (validation,) = (line for line in lines if "eval" in line)
    assert set(validation["eval"]) == {"bbox", "segm"}
    assert validation["val_loss"] == pytest.approx(sum(validation["val_losses"].values()))


def test_the_config_travels(finished, tiny):
    wanted = load_config(tiny.config, [*FULL, "log.tensorboard=true"])
    assert load_config(finished / "config.yaml") == wanted
    found = checkpoint.load(finished / "last.pt")
    assert found["class_names"] == ["nucleus"]
    assert found["step"] == 4


def test_a_run_evaluates_to_its_own_numbers(finished):
    config, validation = evaluate_run(finished, device="cpu")
    assert config.train.max_steps == 4
    written = json.loads((finished / "eval.json").read_text())
    assert validation.result.summary == {kind: written[kind] for kind in ("bbox", "segm")}
    (logged,) = (line for line in log_of(finished) if "eval" in line)
    assert validation.losses == logged["val_losses"]
    assert sum(row["num_detections"] for row in validation.result.per_class)


def test_batches_do_not_change_validation(finished):
    _, one = evaluate_run(finished, device="cpu")
    _, three = evaluate_run(finished, ["eval.batch_size=3"], device="cpu")
    for kind, numbers in one.result.summary.items():
        assert three.result.summary[kind] == pytest.approx(numbers, abs=1e-4)
    for a, b in zip(one.result.per_class, three.result.per_class, strict=True):
        assert a["num_detections"] == b["num_detections"]


def test_a_longer_run_goes_on_exactly(finished, tiny, tmp_path):
    short, whole = tmp_path / "short", tmp_path / "whole"
    resdet.train(tiny.config, FULL, run_dir=short, resume="auto", device="cpu")
    resdet.train(None, ["train.max_steps=6"], run_dir=short, resume="auto", device="cpu")
    resdet.train(tiny.config, [*FULL, "train.max_steps=6"], run_dir=whole, device="cpu")
    assert losses_of(short) == losses_of(whole)
    assert sorted(losses_of(short)) == [1, 2, 3, 4, 5, 6]
    one, two = (checkpoint.load(run / "last.pt") for run in (short, whole))
    for name, tensor in one["ema"].items():
        assert torch.equal(tensor, two["ema"][name])


def test_a_finished_run_stays_as_it_is(finished):
    before = (finished / "log.jsonl").read_text()
    resdet.train(None, [], run_dir=finished, resume=True, device="cpu")
    assert (finished / "log.jsonl").read_text() == before


def test_the_same_seed_gives_the_same_run(finished, tiny, tmp_path):
    again = resdet.train(tiny.config, FULL, run_dir=tmp_path / "again", device="cpu")
    assert_same_end(finished, again)
    other = resdet.train(
        tiny.config, [*FULL, "train.seed=1"], run_dir=tmp_path / "other", device="cpu"
    )
    assert losses_of(other)[1] != losses_of(again)[1]


def test_parts_add_up_to_the_batch(tiny, tmp_path):
    common = ["train.max_steps=2", "model.roi.mask_head=null", "train.batch_size=4"]
    runs = [
        resdet.train(
            tiny.config, [*common, f"train.accumulate={n}"], run_dir=tmp_path / f"{n}", device="cpu"
        )
        for n in (1, 2)
    ]
    whole, parts = (losses_of(run) for run in runs)
    for step, losses in parts.items():
        assert losses == pytest.approx(whole[step], rel=2e-5)


def test_nan_stops_and_is_never_saved(tiny, tmp_path):
    run = tmp_path / "run"
    overrides = ["optim.lr=1e9", "optim.warmup_steps=0", "checkpoint.every=1", "log.every=50"]
    with pytest.raises(NonFiniteError, match=r"^step \d+: .*") as caught:
        resdet.train(tiny.config, overrides, run_dir=run, device="cpu")
    if (run / "last.pt").is_file():
        found = checkpoint.load(run / "last.pt")
        assert all(v.isfinite().all() for v in found["model"].values() if v.is_floating_point())
    assert "loss" in str(caught.value)


def test_check_trains_nothing(tiny, tmp_path, caplog):
    folder = resdet.train(tiny.config, [], run_dir=tmp_path / "run", check=True, device="cpu")
    assert folder == tmp_path / "run_check"
    assert [path.name for path in folder.iterdir()] == ["train_batch.jpg"]
    assert not (tmp_path / "run").exists()
    assert "10 images" in caplog.text
    assert "memory: about" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.backbone.norm=frozen_bn"], r"frozen batch norm"),
        (["model.num_classes=3"], r"model\.num_classes: 3, but the data has 1"),
        (["train.accumulate=3"], r"does not split into 1 process\(es\) × train\.accumulate 3"),
        (["train.precision=fp16"], r"fp16 needs a GPU"),
        (["data.val.annotations=missing.json"], r"missing\.json"),
    ],
)
def test_mistakes_are_refused_before_a_folder_is_made(tiny, tmp_path, overrides, words):
    with pytest.raises(UserError, match=words):
        resdet.train(tiny.config, overrides, run_dir=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_frozen_batch_norm_trains_with_weights(tiny, tmp_path):
    overrides = [
        "model.backbone.norm=frozen_bn",
        "model.backbone.freeze_at=2",
        f"model.backbone.weights={tiny.backbone}",
        "train.max_steps=1",
    ]
    run = resdet.train(tiny.config, overrides, run_dir=tmp_path / "run", device="cpu")
    start, found = torch.load(tiny.backbone), checkpoint.load(run / "last.pt")["model"]
    for name in ("conv1.weight", "layer1.0.conv1.weight", "layer4.1.bn2.running_var"):
        assert torch.equal(found[f"backbone.{name}"], start[name])


def test_validation_may_number_the_classes_otherwise(finished, tiny, tmp_path):
    content = json.loads((tiny.config.parent / "val.json").read_text())
    for entry in content["categories"]:
        entry["id"] = 77
    for annotation in content["annotations"]:
        annotation["category_id"] = 77
    (tmp_path / "val.json").write_text(json.dumps(content))
    _, expected = evaluate_run(finished)
    _, found = evaluate_run(finished, [f"data.val.annotations={tmp_path / 'val.json'}"])
    assert found.result.summary == expected.result.summary
    rows = found.result.per_class
    assert {row["category_id"] for row in rows if row["num_detections"]} == {77}


def test_a_run_in_fp16_evaluates_without_a_gpu(finished):
    threads = torch.get_num_threads()
    overrides = ["train.precision=fp16", f"train.threads={threads + 1}"]
    config, found = evaluate_run(finished, overrides, device="cpu")
    assert torch.get_num_threads() == threads, "its own are for the evaluation alone"
    assert config.train.precision == "fp16"
    assert found.result.summary["bbox"]["AP"] >= 0


def test_another_model_than_was_trained_is_refused(finished):
    with pytest.raises(UserError, match=r"does not fit the model.*of another shape"):
        evaluate_run(finished, ["model.fpn.out_channels=24"])


def test_validation_classes_are_the_models(tiny, tmp_path):
    found = json.loads((tiny.config.parent / "val.json").read_text())
    found["categories"] = [{**c, "name": "cell"} for c in found["categories"]]
    other = tmp_path / "val.json"
    other.write_text(json.dumps(found))
    with pytest.raises(UserError, match="it lacks nucleus; it adds cell"):
        resdet.train(
            tiny.config,
            [f"data.val.annotations={other}"],
            run_dir=tmp_path / "run",
            device="cpu",
        )


def test_changed_data_is_refused(tiny, tmp_path):
    found = json.loads((tiny.config.parent / "train.json").read_text())
    own = tmp_path / "train.json"
    own.write_text(json.dumps(found))
    overrides = [f"data.train.annotations={own}", "train.max_steps=2", "data.val=null"]
    run = resdet.train(tiny.config, overrides, run_dir=tmp_path / "run", device="cpu")
    assert not (run / "best.pt").exists()
    own.write_text(json.dumps({**found, "images": found["images"][1:]}))
    with pytest.raises(UserError, match=r"data\.train changed"):
        resdet.train(None, ["train.max_steps=4"], run_dir=run, resume=True, device="cpu")


@pytest.mark.parametrize("has_list", [True, False])
def test_validation_without_objects_has_no_best(tiny, tmp_path, has_list):
    """Its files are still written: -1 for every number, or the detections of test images."""
    val = json.loads((tiny.config.parent / "val.json").read_text())
    val["annotations"] = []
    if not has_list:
        del val["annotations"]
    (tmp_path / "val.json").write_text(json.dumps(val))
    overrides = ["train.max_steps=1", f"data.val.annotations={tmp_path / 'val.json'}"]
    run = resdet.train(tiny.config, overrides, run_dir=tmp_path / "run", device="cpu")
    assert not (run / "best.pt").exists()
    assert checkpoint.load(run / "last.pt")["best"] is None
    assert (run / "detections.json").exists() is not has_list
    if has_list:
        assert json.loads((run / "eval.json").read_text())["bbox"]["AP"] == -1


def test_spawned_workers_train_the_same(tiny, tmp_path):
    """As on macOS and Windows, where nothing is inherited and all must be pickled."""
    short = ["train.max_steps=1", "data.val=null"]
    multiprocessing.set_start_method("spawn", force=True)
    try:
        run = resdet.train(
            tiny.config, [*short, "data.workers=1"], run_dir=tmp_path / "spawned", device="cpu"
        )
    finally:
        multiprocessing.set_start_method(None, force=True)
    alone = resdet.train(tiny.config, short, run_dir=tmp_path / "alone", device="cpu")
    assert losses_of(run) == losses_of(alone)


def test_a_killed_worker_loses_nothing(tiny, tmp_path, monkeypatch):
    """The run ends between two steps, with the last one saved."""
    whole = train_module.update

    def killing(training, micro_batches, step):
        losses = whole(training, micro_batches, step)
        if step == 2:
            for worker in multiprocessing.active_children():
                worker.kill()
        return losses

    monkeypatch.setattr(train_module, "update", killing)
    run = tmp_path / "run"
    wanted = ["train.max_steps=9", "data.workers=1", "data.val=null"]
    with pytest.raises(LoaderError, match="ended by SIGKILL; most likely the machine ran out"):
        resdet.train(tiny.config, wanted, run_dir=run, device="cpu")
    saved = checkpoint.load(run / "last.pt")["step"]
    assert 3 <= saved <= 3 + PREFETCHED
    monkeypatch.setattr(train_module, "update", whole)
    resdet.train(None, run_dir=run, resume=True, device="cpu")
    assert sorted(losses_of(run)) == list(range(1, 10))


def test_what_is_frozen_stays_in_training(tiny, tmp_path):
    start = resdet.train(tiny.config, ["train.max_steps=1"], run_dir=tmp_path / "a", device="cpu")
    given = ["train.max_steps=2", f"model.weights={start}", "model.freeze=[backbone.*, rpn.*]"]
    run = resdet.train(tiny.config, given, run_dir=tmp_path / "b", device="cpu")
    before, after = (checkpoint.load(folder / "last.pt")["model"] for folder in (start, run))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fpn", "roi_heads"}
    # the frozen network is built again from the run
    assert not any(value.requires_grad for value in resdet.load(run).rpn.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False])
def test_a_whole_script_with_spawned_workers(tiny, tmp_path, guarded):
    """As on macOS and Windows, where each worker imports the script that started it."""
    script, run = tmp_path / "script.py", tmp_path / "run"
    overrides = ["train.max_steps=2", "data.workers=1", "eval.val_loss=false"]
    call = f"resdet.train({str(tiny.config)!r}, {overrides!r}, run_dir={str(run)!r}, device='cpu')"
    guard = "__name__ == '__main__'" if guarded else "True"
    lines = ["import multiprocessing", "import resdet", f"if {guard}:"]
    lines += ["    multiprocessing.set_start_method('spawn', force=True)", f"    {call}"]
    script.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=600, check=False
    )
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == guarded, output
    assert ("put the call below a line `if __name__ ==" in output) == (not guarded)
    assert (run / "last.pt").is_file() == guarded
    if guarded:
        assert checkpoint.load(run / "last.pt")["step"] == 2
