"""Modules that take the place of a library's Swin: the same call, outputs and attributes.

Each runs the deploy model of the size of its images, and refuses other sizes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporters.errors import ConfigError
from exporters.text_files import listed
from swin_deploy.config.sizes import Size
from swin_deploy.swap.structures import is_masked

PLAIN = (type(None), bool, int, float, str, list, tuple, dict)
MODULE_NAMES = frozenset(dir(nn.Module))
# Of transformers' models: what is not given here. Its other arguments change nothing.
UNSUPPORTED = ("output_hidden_states", "output_attentions", "bool_masked_pos")


class StandIn(nn.Module):
    """A deploy model for each image size, with the attributes of the module that it replaces.

    Args:
        original: The replaced module, whose plain attributes are taken over. It is not kept.
        deploys: The deploy model of each image size.
        example: Outputs of the original, whose form is that of the outputs.

    Attributes:
        takes_map: Whether the deploy models give their tokens as a map (``LastMap``).
    """

    takes_map = False

    def __init__(
        self,
        original: Any,  # noqa: ANN401 - a class that is not imported
        deploys: dict[Size, nn.Module],
        example: object,
    ) -> None:
        super().__init__()
        self.deploys = nn.ModuleDict({size.sides: one for size, one in deploys.items()})
        self.replaced = type(original).__name__
        self.form = _form_of(example)
        for name, value in _plain_attributes(original).items():
            setattr(self, name, value)
        self.keep(original, example)
        self.eval()

    def keep(self, original: Any, example: object) -> None:  # noqa: ANN401 - as above
        """Keep what a kind needs of the original besides its plain attributes."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> StandIn:
        """Stay in evaluation mode: the deploy model is for inference."""
        super().train(False)
        return self

    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the deploy model of the size of images [B, C, H, W].

        Raises:
            ConfigError: If there is none of this size.
        """
        rows, columns = images.shape[-2:]
        key = Size(int(rows), int(columns)).sides
        if key not in self.deploys:
            raise ConfigError(
                f"this {self.replaced} was replaced for images of {listed(list(self.deploys))}, "
                f"not {key}; name that size, too: image_size=[...] of replace_backbone"
            )
        found = self.deploys[key](images)
        return (found,) if isinstance(found, Tensor) else tuple(found)


class LastMap(nn.Module):
    """A deploy model whose tokens [B, N, C] are a map [B, H, W, C].

    Args:
        deploy: Deploy model with tokens as its output.
        resolution: Size of their map, in tokens.
    """

    def __init__(self, deploy: nn.Module, resolution: Size) -> None:
        super().__init__()
        self.deploy = deploy
        self.grid = tuple(resolution)

    def forward(self, images: Tensor) -> Tensor:
        return self.deploy(images).unflatten(1, self.grid)  # [B, N, C] -> [B, H, W, C]


class HuggingFaceBackbone(StandIn):
    """transformers' backbones: images to ``BackboneOutput`` with ``feature_maps``."""

    def forward(self, pixel_values: Tensor, *_: object, **options: object) -> Any:  # noqa: ANN401
        """Return the feature maps, [B, C, H, W] each."""
        _check_options(self.replaced, options)
        result = self.form(feature_maps=self.outputs(pixel_values))
        return _as_asked(self, result, options)

    def forward_with_filtered_kwargs(self, *images: Tensor, **options: object) -> Any:  # noqa: ANN401
        """Return the feature maps, as heads ask for them: some for hidden states that they drop."""
        return self(*images, return_dict=options.get("return_dict"))


class HuggingFaceModel(StandIn):
    """transformers' encoders: images to tokens and, where they have a pooler, their mean."""

    def keep(self, original: Any, example: object) -> None:  # noqa: ANN401 - as above
        self.pools = getattr(original, "pooler", None) is not None

    def forward(self, pixel_values: Tensor, *_: object, **options: object) -> Any:  # noqa: ANN401
        """Return ``last_hidden_state`` [B, N, C], and ``pooler_output`` [B, C] or None."""
        _check_options(self.replaced, options)
        (tokens,) = self.outputs(pixel_values)
        pooled = tokens.mean(dim=1) if self.pools else None
        return _as_asked(self, self.form(last_hidden_state=tokens, pooler_output=pooled), options)


class TimmExtractor(StandIn):
    """timm's ``features_only``: images to a list, or a dict, of maps [B, H, W, C]."""

    def forward(self, images: Tensor) -> Any:  # noqa: ANN401 - a list or dict
        """Return the maps in timm's layout."""
        maps = [one.permute(0, 2, 3, 1) for one in self.outputs(images)]
        return in_form(maps, self.form)


class TimmModel(StandIn):
    """timm's whole Swin: ``forward_features``, ``forward_head``, and both in a row."""

    takes_map = True

    def keep(self, original: Any, example: object) -> None:  # noqa: ANN401 - as above
        self.head: nn.Module = original.head

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last map, normed, [B, H, W, C]."""
        (last,) = self.outputs(images)
        return last

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits [B, num_classes], or what the classifier is given, [B, C]."""
        head = self.head
        return head(features, pre_logits=True) if pre_logits else head(features)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, or features without a classifier."""
        return self.forward_head(self.forward_features(images))


class TorchvisionModel(StandIn):
    """torchvision's whole Swin."""

    takes_map = True

    def keep(self, original: Any, example: object) -> None:  # noqa: ANN401 - as above
        self.avgpool: nn.Module = original.avgpool
        self.head: nn.Module = original.head

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, num_classes], or what stands in the place of ``head`` gives."""
        (last,) = self.outputs(images)
        # [B, H, W, C] -> [B, C, H, W] -> [B, C, 1, 1] -> [B, C]
        return self.head(self.avgpool(last.permute(0, 3, 1, 2)).flatten(1))


class DetectorBackbone(StandIn):
    """Backbones of detectors: maps in a tuple, list or dict; images may have masks.

    The output before the first stage, which some of them put first, is that of their embedding.
    """

    def keep(self, original: Any, example: object) -> None:  # noqa: ANN401 - as above
        shown = len(example) if isinstance(example, dict | list | tuple) else 1
        own = min(len(getattr(deploy, "heads", ())) for deploy in self.deploys.values())
        self.stem: nn.Module | None = original.patch_embed if shown > own else None

    def forward(self, images: Any) -> Any:  # noqa: ANN401 - images, with masks or not
        """Return the maps in the form of the original's."""
        if not is_masked(images):
            return in_form(self.forward_raw(images), self.form)
        maps = [with_mask(one, images) for one in self.forward_raw(images.tensors)]
        return in_form(maps, self.form)

    def forward_raw(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps [B, C, H, W] in a tuple."""
        maps = self.outputs(images)
        return maps if self.stem is None else (self.stem(images), *maps)


class PretrainBackbone(StandIn):
    """MMPretrain's backbones of classifiers: the last map, normed, [B, C, H, W], in a tuple."""

    takes_map = True

    def forward(self, images: Tensor) -> Any:  # noqa: ANN401 - as the original gives it
        """Return the last map."""
        (last,) = self.outputs(images)
        return in_form((last.permute(0, 3, 1, 2),), self.form)  # [B, H, W, C] -> [B, C, H, W]


def with_mask(feature_map: Tensor, images: Any) -> Any:  # noqa: ANN401 - an object with a mask
    """Return a map with the mask of its images, brought to its size, in an object like theirs.

    Source: GroundingDINO, models/GroundingDINO/backbone/swin_transformer.py, ``forward``.

    Args:
        feature_map: The map, [B, C, H, W].
        images: Object with ``tensors`` and ``mask``, [B, rows, columns].
    """
    mask = images.mask
    if mask is not None:
        mask = F.interpolate(mask[None].float(), size=feature_map.shape[-2:]).to(torch.bool)[0]
    return type(images)(feature_map, mask)


def in_form(maps: Any, form: Any) -> Any:  # noqa: ANN401 - as the original gives them
    """Return maps as the original does.

    Args:
        maps: The maps, in order.
        form: Names of a dict's entries, a type of sequence, or None for a single map.
    """
    if form is None:
        return maps[0]
    return dict(zip(form, maps, strict=True)) if isinstance(form, list) else form(maps)


def _form_of(example: object) -> Any:  # noqa: ANN401 - see ``in_form``
    if isinstance(example, Tensor) or is_masked(example):
        return None
    if isinstance(example, dict) and type(example) in (dict, OrderedDict):
        return list(example)
    return type(example)


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return what a module has beside its parts: numbers, texts, lists, configs."""
    found = {}
    for name in dir(module):
        if name in MODULE_NAMES or name.startswith("__") or name in ("dtype", "device"):
            continue
        try:
            value = getattr(module, name)
        except Exception:  # noqa: BLE001 - a property of theirs that fails, in any way
            continue
        if not callable(value) and not isinstance(value, Tensor | nn.Module) and _is_data(value):
            found[name] = value
    return found


def _is_data(value: object) -> bool:
    """Tell whether a value is plain, or one of a library's descriptions."""
    if isinstance(value, list | tuple | set | dict):
        inner = value.values() if isinstance(value, dict) else value
        return all(_is_data(one) for one in inner)
    words = type(value).__name__
    return isinstance(value, PLAIN) or words.endswith(("Config", "FeatureInfo", "Format"))


def _check_options(replaced: str, options: dict[str, object]) -> None:
    """Refuse what is not given here.

    Raises:
        ConfigError: If hidden states, attentions or masked patches are asked for.
    """
    for name in UNSUPPORTED:
        value = options.get(name)
        if value is not None and value is not False:
            raise ConfigError(f"the replaced {replaced} has no {name}; use the unmodified model")


def _as_asked(module: Any, result: Any, options: dict[str, object]) -> Any:  # noqa: ANN401
    """Return a result of transformers, or a tuple of it where that is asked for."""
    asked = options.get("return_dict")
    wanted = getattr(module.config, "return_dict", True) if asked is None else asked
    return result if wanted else result.to_tuple()
