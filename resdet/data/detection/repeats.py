"""How often images are repeated, so that rare classes are seen more often (Gupta et al. 2019)."""

import numpy as np
from numpy.typing import NDArray


def class_factors(
    images: NDArray[np.integer],
    labels: NDArray[np.integer],
    *,
    num_images: int,
    num_classes: int,
    threshold: float,
) -> NDArray[np.float64]:
    """(K,) max(1, √(t / f)) of each class, where f is the share of the images that have it and t
    the `threshold` (Gupta et al. 2019, section 4.2 of the LVIS paper); 1 for absent classes.

    Args:
        images: (A,) position of each object's image, 0..num_images-1.
        labels: (A,) 0..num_classes-1.
    """
    pairs = np.unique(images.astype(np.int64) * num_classes + labels)
    counts = np.bincount(pairs % num_classes, minlength=num_classes)
    shares = counts / num_images
    factors: NDArray[np.float64] = np.maximum(1.0, np.sqrt(threshold / np.maximum(shares, 1e-12)))
    return np.where(counts > 0, factors, 1.0)


def image_factors(
    images: NDArray[np.integer],
    labels: NDArray[np.integer],
    of_class: NDArray[np.float64],
    num_images: int,
) -> NDArray[np.float64]:
    """(num_images,) the largest of `class_factors` among the classes of each image; 1 without."""
    factors = np.ones(num_images)
    np.maximum.at(factors, images, of_class[labels])
    return factors
