"""The fold of a reference model's weights into the deploy model's constants.

Everything that a reference computes at run time but that does not depend on the image is computed
here once, in float64: the score scale goes into the query weights, position biases and masks into
additive constants, rolls and window partitions into gather indices. Each family has one file;
``fold_parts`` has the functions that they share.
"""

from __future__ import annotations

import torch

from exporters.spec import Runtime
from swin_deploy.deploy.cpu_form import cpu_form
from swin_deploy.deploy.fold_notebook import fold_notebook
from swin_deploy.deploy.fold_swin import fold_swin
from swin_deploy.deploy.model import DeployModel
from swin_deploy.deploy.scale_migration import migrate_scales
from swin_deploy.reference import Reference
from swin_deploy.reference.alias import alias
from swin_deploy.reference.notebook import NotebookSwin


@torch.no_grad()
def fold(
    reference: Reference, runtime: Runtime = "tensorrt", *, migrated: bool = False
) -> DeployModel:
    """Return the deploy model that computes what ``reference`` computes in evaluation mode.

    Args:
        reference: A model of ``swin_deploy.reference``; it is not changed.
        runtime: Runtimes that its tokens are laid out for.
        migrated: True to move scale from ``qkv`` into the norm before it, for int8.

    Returns:
        A float32 model in evaluation mode that owns its weights, on the CPU.
    """
    own = alias(reference).cpu()
    folded = fold_notebook(own) if isinstance(own, NotebookSwin) else fold_swin(own)
    if migrated:
        folded = migrate_scales(folded)
    if runtime == "cpu":
        folded = cpu_form(folded, own.config.stages)
    return folded.eval().requires_grad_(requires_grad=False)
