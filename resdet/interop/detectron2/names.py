"""Detectron2's tensor names as resdet's, and back."""

import re
from collections.abc import Callable, Sequence

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

# Applied in order, to the names of whole detectors and of modules.
TO_OURS: Rules = (
    (r"^backbone\.bottom_up\.", "backbone."),
    (r"^backbone\.fpn_", "fpn.fpn_"),
    (r"^proposal_generator\.", "rpn."),
    (r"\bstem\.conv1\.norm\.", "bn1."),
    (r"\bstem\.conv1\.", "conv1."),
    # the res5 of a C4 head keeps its name
    (r"(?<!roi_heads\.)\bres(\d)\.", lambda m: f"layer{int(m[1]) - 1}."),
    (r"\bshortcut\.norm\.", "downsample.1."),
    (r"\bshortcut\.", "downsample.0."),
    (r"\bfpn_lateral(\d)\.norm\.", r"lateral.c\1.1."),
    (r"\bfpn_lateral(\d)\.", r"lateral.c\1.0."),
    (r"\bfpn_output(\d)\.norm\.", r"output.p\1.1."),
    (r"\bfpn_output(\d)\.", r"output.p\1.0."),
    (r"\brpn_head\.conv\.conv(\d)\.", r"conv.\1.0."),
    (r"\brpn_head\.conv\.", "conv.0.0."),
    (r"\brpn_head\.objectness_logits\.", "objectness."),
    (r"\brpn_head\.anchor_deltas\.", "deltas."),
    (r"\bbox_(?:head|predictor)\.(\d)\.", r"stages.\1."),
    (r"\bbox_(?:head|predictor)\.", "stages.0."),
    (r"\b(stages\.\d)\.conv(\d)\.norm\.", lambda m: f"{m[1]}.convs.{int(m[2]) - 1}.1."),
    (r"\b(stages\.\d)\.conv(\d)\.", lambda m: f"{m[1]}.convs.{int(m[2]) - 1}.0."),
    (r"\b(stages\.\d)\.fc(\d)\.", lambda m: f"{m[1]}.fcs.{2 * (int(m[2]) - 1)}."),
    (r"\bmask_fcn(\d)\.norm\.", lambda m: f"convs.{int(m[1]) - 1}.1."),
    (r"\bmask_fcn(\d)\.", lambda m: f"convs.{int(m[1]) - 1}.0."),
    # any other conv1.norm … is a norm of a residual block
    (r"\bconv(\d)\.norm\.", r"bn\1."),
)

TO_THEIRS: Rules = (
    (r"^fpn\.lateral\.c(\d)\.0\.", r"backbone.fpn_lateral\1."),
    (r"^fpn\.lateral\.c(\d)\.1\.", r"backbone.fpn_lateral\1.norm."),
    (r"^fpn\.output\.p(\d)\.0\.", r"backbone.fpn_output\1."),
    (r"^fpn\.output\.p(\d)\.1\.", r"backbone.fpn_output\1.norm."),
    (r"^rpn\.conv\.(\d)\.0\.", r"proposal_generator.rpn_head.conv.conv\1."),
    (r"^rpn\.objectness\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.deltas\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"\bstages\.(\d)\.convs\.(\d)\.0\.", lambda m: f"box_head.{m[1]}.conv{int(m[2]) + 1}."),
    (r"\bstages\.(\d)\.convs\.(\d)\.1\.", lambda m: f"box_head.{m[1]}.conv{int(m[2]) + 1}.norm."),
    (r"\bstages\.(\d)\.fcs\.(\d)\.", lambda m: f"box_head.{m[1]}.fc{int(m[2]) // 2 + 1}."),
    (r"\bstages\.(\d)\.(cls_score|bbox_pred)\.", r"box_predictor.\1.\2."),
    (r"\bmask_head\.convs\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}."),
    (r"\bmask_head\.convs\.(\d)\.1\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.norm."),
    (r"\b(layer\d|res5)\.(\d+)\.bn(\d)\.", r"\1.\2.conv\3.norm."),
    (r"\bdownsample\.0\.", "shortcut."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
    (r"\blayer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"^(backbone\.|)conv1\.", r"\1stem.conv1."),
    (r"^(backbone\.|)bn1\.", r"\1stem.conv1.norm."),
)

# Caffe2's blobs: the format of MSRA's and FAIR's ImageNet backbones.
FROM_CAFFE2: Rules = (
    (r"^(res_)?conv1_", "stem.conv1_"),
    (r"^(res\d)_(\d+)_branch1_", r"\1.\2.shortcut_"),
    (r"^(res\d)_(\d+)_branch2a_", r"\1.\2.conv1_"),
    (r"^(res\d)_(\d+)_branch2b_", r"\1.\2.conv2_"),
    (r"^(res\d)_(\d+)_branch2c_", r"\1.\2.conv3_"),
    (r"_[bg]n_(s|gamma)$", ".norm.weight"),
    (r"_[bg]n_(b|beta)$", ".norm.bias"),
    (r"_bn_(rm|running_mean)$", ".norm.running_mean"),
    (r"_bn_(riv|running_var)$", ".norm.running_var"),
    (r"_w$", ".weight"),
    (r"_b$", ".bias"),
)


def our_name(name: str) -> str:
    """resdet's name of one of Detectron2's tensors, in a detector or a module."""
    return _apply(TO_OURS, name)


def their_name(name: str, *, has_fpn: bool, num_rpn_convs: int, num_stages: int) -> str:
    """Detectron2's name of one of resdet's tensors in a detector."""
    name = _apply(TO_THEIRS, name)
    if num_rpn_convs == 1:
        name = name.replace("rpn_head.conv.conv0.", "rpn_head.conv.")
    if num_stages == 1:
        name = re.sub(r"\bbox_(head|predictor)\.0\.", r"box_\1.", name)
    if has_fpn:
        name = re.sub(r"^backbone\.(stem|res\d)\.", r"backbone.bottom_up.\1.", name)
    return name


def from_caffe2(name: str) -> str:
    """Detectron2's name of one of Caffe2's blobs; other names stay the same."""
    return _apply(FROM_CAFFE2, name)


def _apply(rules: Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
