"""What a Swin model is, by numbers alone: nothing here needs PyTorch but ``windows``.

===============  ==================================================================
``sizes``        sizes as rows and columns
``swin``         sizes of a model, and the geometry that follows from them
``published``    the models that have names, and the files of those that come along
``names``        other names of the same models: short ones, and those of libraries
``windows``      orders, masks and position tables of windows
``memory``       what a model needs, and what this machine has
``assumptions``  what nothing said and had to be chosen
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
    Output,
    StageSpec,
    SwinConfig,
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
    "Output",
    "Size",
    "StageSpec",
    "SwinConfig",
    "hidden_channels",
    "nearest",
    "notebook_config",
    "sizes_remedy",
    "variant",
]
