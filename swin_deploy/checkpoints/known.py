"""The sources that are known, and the names by which each is recognised."""

from __future__ import annotations

from swin_deploy.checkpoints import huggingface, microsoft, timm, torchvision

SOURCES = ("notebook", "microsoft", "timm", "torchvision", "huggingface")
DIALECTS = (torchvision.DIALECT, *huggingface.DIALECTS, microsoft.DIALECT, timm.DIALECT)
NOTEBOOK_EVIDENCE = "WSA.WMSA."
