"""The sources that are known: the one list of dialects, and what follows from it."""

from __future__ import annotations

from swin_deploy.checkpoints import huggingface, microsoft, notebook, timm, torchvision
from swin_deploy.checkpoints.dialect import Dialect
from swin_deploy.config import Family

DIALECTS: tuple[Dialect, ...] = (
    notebook.DIALECT,
    microsoft.DIALECT,
    timm.EXTRACTOR,
    timm.DIALECT,
    torchvision.DIALECT,
    *huggingface.DIALECTS,
)
SOURCES = {dialect.source: dialect for dialect in DIALECTS}
# Choice of --original to its library: the source of that name, else one that it loads.
ORIGINALS = {
    dialect.library if dialect.library in SOURCES else source: dialect.library
    for source, dialect in SOURCES.items()
    if dialect.library
}
ORIGINAL_CHOICES = ("auto", "none", *ORIGINALS)
# Choices of --preprocessing: the libraries whose preprocessing is known, packages first.
LIBRARIES = tuple(
    dict.fromkeys((*ORIGINALS, *(s for s, one in SOURCES.items() if one.family != "notebook")))
)
# Parts of names of other models with Swin's blocks, which are refused by what they are.
RELATIVES = {
    "encoder.stages.0.layers.0.attention.self.": "Swin2SR, which enlarges pictures",
    "residual_group.blocks.0.attn.": "SwinIR or another restorer of pictures",
    "audio_encoder.layers.0.blocks.0.": "CLAP, whose Swin reads sounds",
    "stages.0.blocks.0.attn.meta_mlp.": "timm's swinv2_cr, another form of Swin V2",
}
# The libraries that our variants are named after: a model without a checkpoint has their
# preprocessing.
OF_VARIANTS: dict[Family, Dialect] = {
    "notebook": notebook.DIALECT,
    "swin": timm.DIALECT,
    "swinv2": timm.DIALECT,
}
