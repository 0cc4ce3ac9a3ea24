"""From somebody's model to the same model around the deploy model."""

from __future__ import annotations

from typing import Any

from torch import nn

from exporters.errors import ComparisonError, ConfigError
from exporters.text_files import shortened
from swin_deploy.config.sizes import MOST_SIDE, Size
from swin_deploy.swap.replace import Swap, swap_swin

ImageSize = int | tuple[int, int]


def replace_backbone(
    model: nn.Module,
    image_size: ImageSize | list[ImageSize] | None = None,
    *,
    inputs: Any = None,  # noqa: ANN401 - whatever the model takes
    where: str | None = None,
) -> Swap:
    """Replace the Swin inside a model by the deploy model, and prove that nothing else changes.

    The Swin may be that of transformers, timm, torchvision, OpenMMLab, Detectron2, GroundingDINO or
    BiRefNet. The replacement has the same call, outputs and attributes, at fixed image sizes; it
    refuses others, and is for inference.

    Args:
        model: The model, float32, in evaluation mode; it is not changed.
        image_size: Image side in pixels, or (rows, columns); a list of sizes for a model that gives
            its Swin several. None for the sizes that ``inputs`` show.
        inputs: Inputs of the model: a tensor, a tuple of arguments, or a dict of them by name. None
            for noise of the first image size.
        where: Path of the Swin in the model, where there are several.

    Returns:
        The new model, in ``model``, with the place, the class, the sizes and the errors.

    Raises:
        CheckpointError: If there is no Swin of a known class, or several, or it is not a plain one.
        ComparisonError: If an output differs by more than its limit, or the model does not run with
            the replacement.
        ConfigError: If the model is in training mode or not float32, or does not take the size.

    Example:
        >>> import timm
        >>> network = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)).eval()
        >>> swap = swin_deploy.replace_backbone(network, 224)
        >>> swap.replaced, swap.sizes, swap.passed
        ('SwinTransformer', (Size(rows=224, columns=224),), True)
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{shortened(repr(model))} is not a module; give a torch.nn.Module")
    swap = swap_swin(model, sizes_of(image_size), inputs=inputs, where=where)
    if not swap.passed:
        worst = swap.largest
        raise ComparisonError(
            f"the replacement of {swap.replaced} at {swap.where or 'the top'} is not equal: "
            f"{worst.text}; please report it with the library's version"
        )
    return swap


def sizes_of(image_size: ImageSize | list[ImageSize] | None) -> tuple[Size, ...]:
    """Return image sizes as rows and columns, each once.

    Raises:
        ConfigError: If one is not a side, or rows and columns, in pixels.
    """
    given = image_size if isinstance(image_size, list) else [image_size]
    if image_size is None:
        return ()
    for one in given or [None]:
        sides = one if isinstance(one, tuple) else (one,)
        whole = all(type(side) is int and 0 < side <= MOST_SIDE for side in sides)
        if not whole or len(sides) not in (1, 2):
            raise ConfigError(
                f"image_size {shortened(repr(one))}: a side in pixels such as 224, (rows, columns) "
                "or a list of sizes is needed"
            )
    return tuple(dict.fromkeys(Size.of(one) for one in given if one is not None))
