"""The section `test`: what is done at test time besides one pass over one size of the image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from resdet.config.fields import Ascending, Pixels, PositiveFloat, Section

Threshold = Annotated[float, Field(gt=0, le=1)]

WBF_IOU = 0.55
"""IoU above which weighted box fusion takes two boxes for one (Solovyev et al. 2021, 4)."""


class TestConfig(Section):
    """Each key alone changes what it says, and all of them together work on any detector."""

    refine: bool = False
    """Classify and regress again from the regressed boxes; new and old predictions are joined
    (He et al. 2016, appendix B)."""
    refine_classes: Literal["best", "all"] = "best"
    """refine: from the box of each region's best class, or of every class above the score
    threshold."""
    box_voting: Threshold | None = None
    """Replace each detected box by the score-weighted mean of the candidates of its class whose
    IoU with it is at least this (.5 in the paper); null is without voting."""
    scales: Annotated[list[Pixels], Ascending] = []
    """Short sides in pixels of the sizes to test at; empty is `data.test_resize.short_edge`. The
    limit on the long side, `data.test_resize.max_size`, grows and shrinks with them."""
    multi_scale: Literal["adjacent", "views"] | None = None
    """How several scales are combined. adjacent: two neighbouring scales per region, by the
    element-wise maximum of their features (no pyramid); views: each scale detects by itself, and
    `merge` joins them. Null is adjacent without a pyramid, and views with one."""
    proposal_scales: Literal["test", "all"] = "test"
    """adjacent: proposals at the test size alone, as in the paper, or at all scales."""
    maxout: Literal["after_head", "after_pooling"] = "after_head"
    """adjacent: where the maximum is taken, after the layers of the box head or before them."""
    second_scale: Literal["other_side", "nearest"] = "other_side"
    """adjacent: the scale beside the one where the region is nearest to 224² pixels: on the other
    side of 224², or whichever neighbour is nearer to it."""
    flip: bool = False
    """Detect in the mirror image too."""
    merge: Literal["nms", "soft_nms", "wbf"] = "nms"
    """How candidates are joined: NMS, soft-NMS (Bodla et al. 2017), or NMS in each view and
    weighted box fusion over the views (Solovyev et al. 2021)."""
    merge_iou: Threshold | None = None
    """IoU of `merge`; null is `model.nms_thresh`, and .55 for wbf."""
    soft_nms: Literal["gaussian", "linear"] = "gaussian"
    """soft_nms: how overlap lowers a score."""
    soft_nms_sigma: PositiveFloat = 0.5
    """gaussian soft_nms: a larger value lowers the scores less."""

    @property
    def is_on(self) -> bool:
        """Whether anything differs from one pass over one size, joined by NMS."""
        return self != TestConfig()

    def is_adjacent(self, has_pyramid: bool) -> bool:
        """Whether the scales meet in the features of each region."""
        if self.multi_scale is None:
            return bool(self.scales) and not has_pyramid
        return self.multi_scale == "adjacent"

    def num_views(self, has_pyramid: bool) -> int:
        """Passes that detect by themselves, whose detections are merged."""
        scales = 1 if self.is_adjacent(has_pyramid) else max(1, len(self.scales))
        return scales * (2 if self.flip else 1)

    def check(self, has_pyramid: bool) -> None:
        """ValueError where the keys do not fit the network."""
        if self.is_adjacent(has_pyramid):
            if has_pyramid:
                raise ValueError(
                    "test.multi_scale: adjacent needs a network of one map (model.fpn null); "
                    "leave it null to merge the detections of the scales"
                )
        else:
            for key in ("proposal_scales", "maxout", "second_scale"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"test.{key}: it belongs to multi_scale adjacent, which takes test.scales "
                        "and a network without a pyramid; leave it out"
                    )
        if self.merge == "wbf" and self.num_views(has_pyramid) == 1:
            raise ValueError(
                "test.merge: wbf fuses the detections of several views, and there is only one; "
                "set test.flip=true, or several test.scales with test.multi_scale=views"
            )

    @model_validator(mode="after")
    def _together(self) -> TestConfig:
        if self.refine_classes == "all" and not self.refine:
            raise ValueError("refine_classes: all belongs to refine; set test.refine=true")
        if self.multi_scale is not None and not self.scales:
            raise ValueError(
                f"multi_scale: {self.multi_scale} combines scales; give test.scales, such as "
                "[480, 600, 800]"
            )
        for key, value in (("second_scale", "other_side"), ("maxout", "after_head")):
            if getattr(self, key) != value and len(self.scales) == 1:
                raise ValueError(
                    f"{key}: {getattr(self, key)} needs several scales; add to test.scales"
                )
        if self.merge == "wbf" and self.box_voting is not None:
            raise ValueError(
                "box_voting: wbf takes the mean of overlapping boxes already; set "
                "test.box_voting=null, or test.merge to nms or soft_nms"
            )
        if self.merge != "soft_nms" and (self.soft_nms != "gaussian" or self.soft_nms_sigma != 0.5):
            raise ValueError(
                "soft_nms and soft_nms_sigma belong to merge soft_nms; set test.merge=soft_nms"
            )
        if self.merge == "soft_nms":
            if self.soft_nms == "linear" and self.soft_nms_sigma != 0.5:
                raise ValueError("soft_nms_sigma belongs to gaussian soft_nms; leave it out")
            if self.soft_nms == "gaussian" and self.merge_iou is not None:
                raise ValueError(
                    "merge_iou: gaussian soft_nms has no threshold; leave it out, or set "
                    "test.soft_nms=linear"
                )
        return self
