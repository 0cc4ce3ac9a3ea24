"""What a Swin model is, by numbers alone: nothing here needs PyTorch but ``windows``.

===============  ==================================================================
``swin``         sizes, and the geometry that follows from them
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
from swin_deploy.config.swin import (
    MOST,
    MOST_SIDE,
    Family,
    Output,
    StageSpec,
    SwinConfig,
    hidden_channels,
    nearest,
    sizes_remedy,
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
    "StageSpec",
    "SwinConfig",
    "hidden_channels",
    "nearest",
    "notebook_config",
    "sizes_remedy",
    "variant",
]
