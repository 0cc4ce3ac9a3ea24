"""Classes of a package that is gone when a file is read, as on another person's machine."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

PACKAGE = "gone_package"
SOURCE = """
import collections, dataclasses, enum
from torch import nn

class CfgNode(dict):
    '''A dict with attributes and a state, as yacs has it.'''
    def __init__(self, values=None):
        values = values or {}
        super().__init__({k: CfgNode(v) if isinstance(v, dict) else v for k, v in values.items()})
        self.__dict__["__immutable__"] = True

class AttributeDict(dict):
    '''As Lightning's.'''

class EasyDict(dict):
    def __init__(self, values):
        super().__init__(values)
        self.__dict__.update(values)

class Color(enum.Enum):
    RED = "red"

@dataclasses.dataclass
class Settings:
    lr: float = 0.1
    img_size: int = 56

@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    lr: float = 0.1

class Scheduler:
    '''With a state of its own form.'''
    def __init__(self):
        self.steps = [1, 2]
    def __getstate__(self):
        return ("state", self.steps)
    def __setstate__(self, state):
        raise AssertionError("nobody may call it")

class AnyNode:
    def __init__(self, value, parent):
        self.__dict__.update(_metadata=Settings(), _parent=parent, _val=value)

class DictConfig:
    '''As OmegaConf's: nodes that know their parents.'''
    def __init__(self, values):
        self.__dict__["_parent"] = None
        self.__dict__["_content"] = {k: AnyNode(v, self) for k, v in values.items()}

class Net(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, images):
        return self.model(images)
"""


@contextlib.contextmanager
def package() -> Iterator[Any]:
    """The package while files are written; nobody can import it afterwards."""
    module = types.ModuleType(PACKAGE)
    hidden = sys.modules.get("omegaconf")
    sys.modules[PACKAGE] = module
    try:
        exec(SOURCE, module.__dict__)
        omega = types.ModuleType("omegaconf")
        for name in ("DictConfig", "AnyNode"):
            kind = getattr(module, name)
            kind.__module__ = "omegaconf"
            setattr(omega, name, kind)
        sys.modules["omegaconf"] = omega
        yield module
    finally:
        sys.modules.pop(PACKAGE, None)
        sys.modules.pop("omegaconf", None)
        if hidden is not None:
            sys.modules["omegaconf"] = hidden
