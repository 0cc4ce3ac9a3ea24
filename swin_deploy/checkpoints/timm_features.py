"""timm's feature extractors (``features_only=True``): names in their files, and their stages.

Source: timm 1.0.31, ``models/_features.py``: the sequence ``layers`` is flattened into its parts.
"""

from __future__ import annotations

from typing import Any

from exporters.errors import CheckpointError
from exporters.text_files import listed
from swin_deploy.checkpoints.config_json import TimmArguments

LAYERS, FLAT = "layers.", "layers_"
# Fields that a file need not show: it may end with the last stage that is given, and has no head.
CUT = ("depths", "num_heads", "num_classes")
USUAL_STAGES = 4
REMARK = "maps of timm's feature extractor: [batch, C, H, W] here, [batch, H, W, C] in timm"
ALL_STAGES = "nothing says which of its stages the extractor gives: all that the file has"


def flat_name(name: str) -> str:
    """Return the extractor's name of a tensor of timm's model."""
    return FLAT + name.removeprefix(LAYERS) if name.startswith(LAYERS) else name


def out_stages(arguments: TimmArguments, sizes: dict[str, Any]) -> tuple[int, ...]:
    """Return the stages, from 1, whose maps an extractor gives; empty for all.

    Args:
        arguments: The arguments of the model; ``out_indices`` counts stages from 0, or from the end
            with negative numbers, and one number alone is that of the last stages.
        sizes: Sizes of the whole model, as far as they are known.

    Raises:
        CheckpointError: If there is no such stage.
    """
    asked = arguments.out_indices
    if not arguments.features_only or asked is None:
        return ()
    count = len(sizes.get("depths", ())) or USUAL_STAGES
    indices = list(range(-asked, 0)) if isinstance(asked, int) else asked
    if not indices or not all(-count <= index < count for index in indices):
        raise CheckpointError(
            f"config.json asks for out_indices {listed([str(one) for one in indices]) or 'none'}; "
            f"the model has stages 0 to {count - 1}"
        )
    return tuple(sorted({index % count + 1 for index in indices}))
