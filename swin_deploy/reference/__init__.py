"""Readable, trainable models that the deploy model is checked against.

===============  ===============================================================================
``activations``  modules of the activations of an MLP
``alias``        copies of a module that cost no memory until they are cast or moved
``head``         the classifier: one linear layer, or two around an activation
``notebook``     the notebook's Swin Transformer, with its habits kept so that its checkpoints keep
                 their numbers
``parts``        stochastic depth, which all reference models share
``swin``         Swin Transformer, "Hierarchical Vision Transformer using Shifted Windows",
                 arXiv 2103.14030
``swin_v2``      Swin Transformer V2, "Scaling Up Capacity and Resolution", arXiv 2111.09883
===============  ===============================================================================
"""

from __future__ import annotations

import torch

from swin_deploy.config import SwinConfig
from swin_deploy.config.memory import require_memory
from swin_deploy.reference.notebook import NotebookSwin
from swin_deploy.reference.swin import SwinTransformer
from swin_deploy.reference.swin_v2 import SwinTransformerV2

Reference = NotebookSwin | SwinTransformer


def build_reference(config: SwinConfig) -> Reference:
    """Build the reference model of a config, freshly initialised, in training mode.

    Raises:
        ConfigError: If this machine does not have the memory for it.
    """
    require_memory(config)
    kinds: dict[str, type[NotebookSwin] | type[SwinTransformer]] = {
        "notebook": NotebookSwin,
        "swin": SwinTransformer,
        "swinv2": SwinTransformerV2,
    }
    return kinds[config.family](config)


def count_parameters(config: SwinConfig) -> int:
    """Count the values in the parameters of a config's model, frozen ones included."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_reference(config).parameters())
