"""A check that a model's right answers are more than guessing would give."""

from __future__ import annotations

from exporters.text_files import listed, shortened
from swin_deploy.images.class_names import ClassNames, ClassOrder
from swin_deploy.intervals import wilson_interval


def chance_doubt(
    right: int, images: int, *, num_classes: int, order: ClassOrder, known: ClassNames | None
) -> str:
    """Explain that accuracy means nothing, if the reference is not better than guessing.

    Args:
        right: Number of images that the reference has right.
        images: Number of images, at least one.
        num_classes: Number of classes of the model.
        order: The index of each class in the data.
        known: The model's class names, or None.

    Returns:
        The reason, with the order of the classes in the data and in the model; empty if the
        reference is better than guessing, or if the images are too few to tell even with every
        answer right.
    """
    chance = 1 / num_classes
    if wilson_interval(right, images).low > chance or wilson_interval(images, images).low <= chance:
        return ""
    theirs = listed([f"{shortened(name)} = {index}" for name, index in order.indices.items()])
    ours = "not known"
    if known is not None:
        named = [f"{shortened(name)} = {index}" for index, name in enumerate(known.shown) if name]
        ours = f"{listed(named)} ({known.source})"
    return (
        f"the reference is right for {right} of {images} images, which guessing may reach too, so "
        "accuracy shows nothing. The order of the classes is probably wrong, or the weights. In "
        f"the data: {theirs}. In the model: {ours}. Give --classes FILE with the model's class "
        "names in its order"
    )
