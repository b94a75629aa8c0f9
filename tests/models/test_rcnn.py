from pathlib import Path

import pytest
import torch

from resdet.structures import ImageBatch, TargetBatch
from tests.models.tiny import nuclei_batch, pad_targets, tiny_model

CASCADE = {
    "roi": {
        "stages": [
            {"foreground_iou": 0.5, "box_weights": [10, 10, 5, 5]},
            {"foreground_iou": 0.6, "box_weights": [20, 20, 10, 10]},
            {"foreground_iou": 0.7, "box_weights": [30, 30, 15, 15]},
        ],
        "box_head": {"class_agnostic": True},
    }
}
VARIANTS = {
    "mask": {},
    "boxes only": {"roi": {"mask_head": None}},
    "cascade": CASCADE,
    "giou": {"rpn": {"box_loss": "giou"}, "roi": {"box_head": {"box_loss": "giou"}}},
    "smooth l1, agnostic": {
        "rpn": {"box_loss": "smooth_l1", "num_convs": 2},
        "roi": {
            "box_head": {"box_loss": "smooth_l1", "class_agnostic": True},
            "mask_head": {"class_agnostic": True, "norm": "gn"},
        },
    },
    "4conv1fc": {
        "fpn": {"norm": "gn"},
        "roi": {"box_head": {"num_convs": 4, "conv_dim": 16, "num_fcs": 1, "norm": "bn"}},
    },
    "dilated": {"backbone": {"res5_dilation": 2}},
}
# Losses of a fixed seed on real images: a refactor shows the same numbers (1e-4 relative).
PINNED: dict[str, dict[str, float]] = {
    "mask": {
        "loss_rpn_cls": 0.691474,
        "loss_rpn_box": 0.07591,
        "loss_cls": 1.0679,
        "loss_box": 0.0810489,
        "loss_mask": 0.693644,
    },
    "boxes only": {
        "loss_rpn_cls": 0.691474,
        "loss_rpn_box": 0.07591,
        "loss_cls": 1.0679,
        "loss_box": 0.0810489,
    },
    "cascade": {
        "loss_rpn_cls": 0.691474,
        "loss_rpn_box": 0.07591,
        "loss_cls_stage1": 1.20115,
        "loss_box_stage1": 0.0820171,
        "loss_cls_stage2": 1.06214,
        "loss_box_stage2": 0.007062,
        "loss_cls_stage3": 1.08576,
        "loss_box_stage3": 0.0116115,
        "loss_mask": 0.693515,
    },
    "giou": {
        "loss_rpn_cls": 0.691474,
        "loss_rpn_box": 0.0365085,
        "loss_cls": 1.0679,
        "loss_box": 0.00820933,
        "loss_mask": 0.693644,
    },
    "smooth l1, agnostic": {
        "loss_rpn_cls": 0.693317,
        "loss_rpn_box": 0.0645142,
        "loss_cls": 1.14623,
        "loss_box": 0.000362149,
        "loss_mask": 0.69304,
    },
    "4conv1fc": {
        "loss_rpn_cls": 0.692413,
        "loss_rpn_box": 0.0765268,
        "loss_cls": 1.0901,
        "loss_box": 0.00083011,
        "loss_mask": 0.692983,
    },
    "dilated": {
        "loss_rpn_cls": 0.691424,
        "loss_rpn_box": 0.0759307,
        "loss_cls": 1.0694,
        "loss_box": 0.0949834,
        "loss_mask": 0.693618,
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_are_pinned_and_reach_every_parameter(name: str, nuclei: Path) -> None:
    # float64, so that another processor's rounding does not reorder proposals of equal score.
    model = tiny_model(VARIANTS[name]).double().train()
    losses = model(*nuclei_batch(nuclei), seed=1, step=2)
    sum(losses.values()).backward()
    for key, value in PINNED[name].items():
        assert losses[key].item() == pytest.approx(value, rel=1e-4), key
    assert list(losses) == list(PINNED[name])
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


def test_losses_of_every_slot_equal_those_of_the_valid_ones(nuclei: Path) -> None:
    results = []
    for fixed in (False, True):
        for changes in ({}, CASCADE):
            model = tiny_model(changes).double().train()
            # More slots than proposals, so that some stay empty.
            model.roi_heads.num_samples = 256
            model.set_fixed_slots(fixed)
            losses = model(*nuclei_batch(nuclei), seed=0, step=0)
            sum(losses.values()).backward()
            gradients = [p.grad for p in model.parameters()]
            results.append((losses, gradients))
    for (one, one_grads), (other, other_grads) in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        for a, b in zip(one_grads, other_grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-10)


def test_samples_of_an_image_do_not_depend_on_its_batch(nuclei: Path) -> None:
    model = tiny_model().double().train()
    together = model(*nuclei_batch(nuclei, (0, 1)), seed=3, step=7)
    apart = [model(*nuclei_batch(nuclei, (key,)), seed=3, step=7) for key in (0, 1)]
    for key in ("loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box"):
        mean = (apart[0][key] + apart[1][key]) / 2
        torch.testing.assert_close(together[key], mean, rtol=1e-6, atol=1e-9)
    again = model(*nuclei_batch(nuclei, (0, 1)), seed=3, step=7)
    assert all(torch.equal(again[key], together[key]) for key in together)
    other = model(*nuclei_batch(nuclei, (0, 1)), seed=3, step=8)
    assert other["loss_rpn_cls"] != together["loss_rpn_cls"]


def test_images_without_objects_give_background_losses(nuclei: Path) -> None:
    images, _ = nuclei_batch(nuclei)
    _, targets = pad_targets(list(images.images), [[], []], [], (0, 1))
    for changes in ({}, CASCADE, VARIANTS["4conv1fc"]):
        model = tiny_model(changes).train()
        losses = model(images, targets, seed=0, step=0)
        sum(losses.values()).backward()
        assert losses["loss_rpn_cls"] > 0 and losses["loss_rpn_box"] == 0
        assert losses["loss_mask"] == 0
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_padding_does_not_change_the_detections(nuclei: Path) -> None:
    model = tiny_model({"score_thresh": 0.0}).double().eval()
    images, _ = nuclei_batch(nuclei)
    noise = torch.randint(0, 255, (2, 3, 128, 192), dtype=torch.uint8)
    noise[..., :128] = images.images
    sizes = torch.tensor([[128, 128], [128, 128]])
    plain = model.infer(ImageBatch(images.images, sizes), [(128, 128)] * 2)
    for box in model.infer(ImageBatch(noise, sizes), [(128, 128)] * 2):
        assert (box.boxes <= 128).all()
    assert [len(d) for d in plain] == [100, 100] or all(len(d) <= 100 for d in plain)
    normalized = model.normalize(ImageBatch(noise, sizes))
    assert not normalized[..., 128:].any()


def test_detections_are_in_pixels_of_the_original_and_best_first(nuclei: Path) -> None:
    model = tiny_model({"score_thresh": 0.0, "detections_per_image": 30}).eval()
    images, _ = nuclei_batch(nuclei)
    small = model.infer(images, [(128, 128)] * 2)
    large = model.infer(images, [(256, 384)] * 2)
    for one, two in zip(small, large, strict=True):
        assert len(one) == 30 and one.labels.dtype == torch.int64
        assert (one.scores.diff() <= 0).all()
        scaled = one.boxes * torch.tensor([3.0, 2.0, 3.0, 2.0])
        torch.testing.assert_close(two.boxes, scaled, rtol=1e-4, atol=1e-3)
        assert two.masks is not None and two.masks.shape == (30, 256, 384)
        assert one.category_ids == [1, 2]


@pytest.mark.parametrize("name", ["mask", "cascade", "boxes only"])
def test_an_image_alone_is_detected_as_in_a_batch(name: str, nuclei: Path) -> None:
    model = tiny_model(VARIANTS[name] | {"score_thresh": 0.1}).double().eval()
    images, _ = nuclei_batch(nuclei, (0, 1, 2))
    together = model.infer(images, [(128, 128)] * 3)
    for index in range(3):
        one = ImageBatch(images.images[index : index + 1], images.sizes[index : index + 1])
        alone = model.infer(one, [(128, 128)])[0]
        torch.testing.assert_close(together[index].boxes, alone.boxes)
        assert torch.equal(together[index].labels, alone.labels)


def test_nothing_above_the_threshold_gives_empty_detections(nuclei: Path) -> None:
    model = tiny_model({"score_thresh": 1.0}).eval()
    images, _ = nuclei_batch(nuclei)
    found = model.infer(images, [(128, 128)] * 2)[1]
    assert len(found) == 0 and found.boxes.shape == (0, 4)
    assert found.masks is not None and found.masks.shape == (0, 128, 128)
    assert found.to_coco(5) == []


def test_backbone_and_fpn_compile_without_a_graph_break() -> None:
    model = tiny_model().eval()
    images = torch.randn(1, 3, 64, 96)
    compiled = torch.compile(model.pyramid, backend="eager", fullgraph=True)
    for level, feature in compiled(images).items():
        torch.testing.assert_close(feature, model.pyramid(images)[level])


def test_bgr_models_get_bgr(nuclei: Path) -> None:
    images, _ = nuclei_batch(nuclei)
    images.images[:, 0] = 7
    rgb = tiny_model({"pixel_mean": [1, 2, 3], "pixel_std": [1, 1, 1]}).normalize(images)
    bgr = tiny_model(
        {"pixel_mean": [3, 2, 1], "pixel_std": [1, 1, 1], "channel_order": "bgr"}
    ).normalize(images)
    assert torch.equal(rgb, bgr.flip(1))


def test_stages_need_agnostic_boxes() -> None:
    with pytest.raises(ValueError, match=r"box_head\.class_agnostic: several stages"):
        tiny_model({"roi": {"stages": CASCADE["roi"]["stages"]}})
    with pytest.raises(ValueError, match=r"anchor_sizes: 2 sizes for 5 levels"):
        tiny_model({"rpn": {"anchor_sizes": [1, 2]}})


def test_targets_move_to_a_device(nuclei: Path) -> None:
    images, targets = nuclei_batch(nuclei)
    moved: TargetBatch = targets.to(torch.device("cpu"))
    assert moved.image_ids == targets.image_ids
    assert torch.equal(moved.boxes, targets.boxes)
    assert torch.equal(images.to(torch.device("cpu")).sizes, images.sizes)
