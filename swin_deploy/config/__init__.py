"""The sizes of Swin models and what follows from them; only ``windows`` needs PyTorch.

===============  ==================================================================
``activations``  activations of an MLP, and libraries' names of them
``sizes``        sizes as rows and columns
``swin``         sizes of a model, and the geometry that follows from them
``fit``          windows, shifts and pads of each library where windows do not tile a map
``pads``         where a padded model keeps its pads, and what is said of them
``published``    the models that have names, and the files of those in the package
``names``        other names of the same models: short ones, and those of libraries
``windows``      orders, masks and position tables of windows
``memory``       memory that a model needs, and that this machine has
``assumptions``  choices that no input settled
===============  ==================================================================
"""

from swin_deploy.config.published import (
    ASSETS,
    BUNDLED_IMAGES,
    BUNDLED_WEIGHTS,
    DEFAULT_MODEL,
    VARIANTS,
    notebook_config,
    variant,
)
from swin_deploy.config.sizes import MOST_SIDE, Size, nearest, sizes_remedy
from swin_deploy.config.swin import (
    MOST,
    Family,
    HeadActivation,
    Output,
    StageSpec,
    SwinConfig,
    channels_text,
    hidden_channels,
)

__all__ = [
    "ASSETS",
    "BUNDLED_IMAGES",
    "BUNDLED_WEIGHTS",
    "DEFAULT_MODEL",
    "MOST",
    "MOST_SIDE",
    "VARIANTS",
    "Family",
    "HeadActivation",
    "Output",
    "Size",
    "StageSpec",
    "SwinConfig",
    "channels_text",
    "hidden_channels",
    "nearest",
    "notebook_config",
    "sizes_remedy",
    "variant",
]
