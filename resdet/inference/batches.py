"""Predictions of one batch in the memory that there is."""

from collections.abc import Sequence
from typing import Any

from resdet.errors import UserError
from resdet.files.windows import Windows
from resdet.memory import is_out_of_memory
from resdet.models.tiles import predict_tiles
from resdet.ops.tiles import Tiling
from resdet.structures import Classification, Detections


def predict_windows(
    model: Any,
    image: Windows,
    tiling: Tiling,
    name: str,
    score_thresh: float | None = None,
    batch_size: int = 1,
) -> Detections | UserError:
    """As `predict_tiles`, within the `inference_mode` of the model; an error in place of detections
    where the image cannot be read.

    If `batch_size` tiles do not fit into memory, one tile at a time.
    """
    for size in sorted({batch_size, 1}, reverse=True):
        try:
            return predict_tiles(
                model, image, tiling, score_thresh=score_thresh, batch_size=size, name=name
            )
        except UserError as error:
            return error
        except Exception as error:
            if not is_out_of_memory(error):
                raise
    return UserError(
        f"{name}: a tile of {tiling.size} pixels does not fit into memory; give smaller tiles "
        "(--tile)"
    )


def predict_batch(
    model: Any,
    images: Sequence[Any],
    original_sizes: Sequence[tuple[int, ...]],
    names: Sequence[str],
    score_thresh: float | None = None,
) -> list[Detections | Classification | UserError]:
    """As `predict_prepared` of a Predictor, within its `inference_mode`.

    If the batch does not fit into memory, one image at a time; an image that does not fit at all
    has an error, with its name of `names`, in place of a prediction.
    """
    try:
        return list(model.predict_prepared(images, original_sizes, score_thresh))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # not in the handler: the exception holds what the network had computed
    if len(images) == 1:
        return [
            UserError(
                f"{names[0]}: does not fit into memory at the size that the network sees; lower "
                "data.test_resize.short_edge and data.test_resize.max_size"
            )
        ]
    return [
        predict_batch(model, [image], [size], [name], score_thresh)[0]
        for image, size, name in zip(images, original_sizes, names, strict=True)
    ]
