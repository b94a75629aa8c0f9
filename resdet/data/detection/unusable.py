"""The errors of data sets of which nothing can be used; they name the cause."""

from collections.abc import Sequence

from resdet.data.detection.annotated import AnnotatedImages
from resdet.data.detection.checks import MASK_FROM_BOX, MISSING
from resdet.data.detection.table import AnnotationTable
from resdet.files.findings import DataError, Finding, summarize_findings


def no_images(read: AnnotatedImages) -> DataError:
    """Of a set of which no image is left."""
    source = read.table.source
    if not read.findings:
        return DataError(f"{source}: it lists no images; give another file")
    what = f"{source}: none of its images can be used"
    if all(finding.remedy == MISSING for finding in read.findings):
        what = (
            f"{source}: none of the images is in {', '.join(read.folders)}; check that "
            f"{read.key}.images and {read.key}.annotations belong together"
        )
    return DataError(what, *_indented([], read.findings))


def no_objects(
    table: AnnotationTable, findings: Sequence[Finding], *, keep_difficult: bool
) -> DataError:
    """Of a set without any object to use."""
    crowd = table.crowd
    causes = []
    if crowd.any():
        causes.append(f"{int(crowd.sum())} are crowd regions (iscrowd 1); set iscrowd to 0")
    if not keep_difficult and (difficult := table.difficult & ~crowd).any():
        what = f"{int(difficult.sum())} are marked as difficult"
        causes.append(f"{what}; set data.keep_difficult=true")
    if not causes and not len(table.labels) and not findings:
        causes.append("the annotations list none; annotate the images, or give another file")
    what = f"{table.source}: no image has an object that can be used"
    return DataError(": ".join([what, *causes[:1]]), *_indented(causes[1:], findings))


def no_outlines(
    table: AnnotationTable, findings: Sequence[Finding], *, for_head: bool
) -> DataError:
    """Of a set without any outline to use, which the mask head needs or else copy-paste."""
    bad = [each for each in findings if each.remedy.startswith(MASK_FROM_BOX)]
    needing = (
        "the mask head needs; train without it (model.roi.mask_head=null), or evaluate boxes only "
        "(--kinds bbox)"
        if for_head
        else "copy-paste needs; set data.augment.copy_paste=null (data.augment.mosaic takes boxes "
        "too)"
    )
    usable = "usable " if bad else ""
    return DataError(
        f"{table.source}: no object has a {usable}segmentation, which {needing}",
        *_indented([], bad),
    )


def _indented(lines: Sequence[str], findings: Sequence[Finding]) -> list[str]:
    """Lines of an error after its first one."""
    return [f"  {line}" for line in (*lines, *summarize_findings(findings))]
