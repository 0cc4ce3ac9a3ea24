"""transformers' models with a Swin in them, small: how each is built, and what its Swin gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peers
from torch import Tensor, nn

Take = Callable[[Any, Tensor], list[Tensor]]
DETECTOR = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "num_queries": 4,
}  # fmt: skip
SEGMENTER = {
    "hidden_dim": 32, "encoder_feedforward_dim": 16, "encoder_layers": 1, "num_attention_heads": 2,
    "num_queries": 4,
}  # fmt: skip
WORDS = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "vocab_size": 50,
}  # fmt: skip
LAST_THREE: dict[str, Any] = {"out_features": None, "out_indices": [2, 3, 4]}


@dataclass(frozen=True)
class Composite:
    """One model: how to build it, and its Swin's own outputs for images."""

    build: Callable[[], nn.Module]
    take: Take


def _library() -> Any:  # noqa: ANN401 - transformers
    return peers.import_peer("transformers")


def swin_config(kind: str = "Swin", **changes: Any) -> Any:  # noqa: ANN401 - a config of theirs
    """64 pixels, windows of 2: one covers the last map."""
    fields = {**peers.FOUR_STAGES, "embed_dim": 16, "window_size": 2, "image_size": 64}
    wanted = {**fields, "out_features": peers.STAGES, **changes}
    return getattr(_library(), f"{kind}Config")(**wanted)


def _model(name: str, config: str, **fields: Any) -> nn.Module:  # noqa: ANN401
    library = _library()
    built: nn.Module = getattr(library, name)(getattr(library, config)(**fields))
    return peers.trained_like(built)


def _words(**changes: Any) -> Any:  # noqa: ANN401
    return _library().BertConfig(**WORDS, **changes)


def _reader(kind: str, **options: Any) -> nn.Module:  # noqa: ANN401
    """An encoder of images and a decoder of text."""
    library = _library()
    config = peers.build_huggingface(kind, "Model").config
    encoder = getattr(library, {"swin": "SwinModel", "donut": "DonutSwinModel"}[kind])
    decoder = library.BertLMHeadModel(_words(is_decoder=True, add_cross_attention=True))
    both = library.VisionEncoderDecoderModel(encoder=encoder(config, **options), decoder=decoder)
    return peers.trained_like(both)


def _pair(family: str) -> nn.Module:
    library = _library()
    vision = peers.build_huggingface(family, "Model")
    text = library.BertModel(_words())
    return peers.trained_like(
        library.VisionTextDualEncoderModel(vision_model=vision, text_model=text)
    )


def _omdet() -> nn.Module:
    words = {**WORDS, "projection_dim": 16, "model_type": "clip_text_model"}
    return _model(
        "OmDetTurboForObjectDetection", "OmDetTurboConfig", use_timm_backbone=False,
        backbone_config=swin_config(**LAST_THREE), text_config=words, image_size=64,
        class_embed_dim=16, text_projection_in_dim=16, text_projection_out_dim=16,
        task_encoder_hidden_dim=16, encoder_hidden_dim=16, decoder_hidden_dim=16,
        vision_features_channels=[16, 16, 16], encoder_in_channels=[32, 64, 128],
        encoder_attention_heads=2, decoder_num_heads=2, encoder_dim_feedforward=16,
        decoder_dim_feedforward=16, decoder_num_layers=1, num_queries=4,
    )  # fmt: skip


def _upernet(kind: str) -> nn.Module:
    return _model(
        "UperNetForSemanticSegmentation", "UperNetConfig", backbone_config=swin_config(kind),
        hidden_size=16, auxiliary_in_channels=64, auxiliary_channels=8, num_labels=3,
    )  # fmt: skip


def _maps(model: Any, images: Tensor) -> list[Tensor]:  # noqa: ANN401
    """The maps of the one backbone in a model."""
    backbones = [one for one in model.modules() if type(one).__name__.endswith("Backbone")]
    (backbone,) = [one for one in backbones if hasattr(one, "out_features")]
    return list(backbone(images).feature_maps)


def _tokens(path: str) -> Take:
    return lambda model, images: [model.get_submodule(path)(images).last_hidden_state]


def _features(path: str) -> Take:
    def take(model: Any, images: Tensor) -> list[Tensor]:  # noqa: ANN401
        result = model.get_submodule(path)(images)
        pooled = result.pooler_output
        return [result.last_hidden_state.mean(dim=1) if pooled is None else pooled]

    return take


def _logits(model: Any, images: Tensor) -> list[Tensor]:  # noqa: ANN401
    return [model(images).logits]


def _detector(name: str, **fields: Any) -> Composite:  # noqa: ANN401
    def build() -> nn.Module:
        own = {**DETECTOR, "backbone_config": swin_config(**LAST_THREE), **fields}
        if "Grounding" in name:
            own["text_config"] = _words()
        return _model(f"{name}ForObjectDetection", f"{name}Config", **own)

    return Composite(build, _maps)


MASKED = "ForMaskedImageModeling"
OWN: dict[str, Any] = {"use_timm_backbone": False}
COMPOSITES = {
    "mask2former": Composite(
        lambda: _model(
            "Mask2FormerForUniversalSegmentation", "Mask2FormerConfig", **SEGMENTER,
            backbone_config=swin_config(), feature_size=32, mask_feature_size=32,
            decoder_layers=1, dim_feedforward=16,
        ),
        _maps,
    ),
    "oneformer": Composite(
        lambda: _model(
            "OneFormerForUniversalSegmentation", "OneFormerConfig", **SEGMENTER,
            backbone_config=swin_config(), mask_dim=32, conv_dim=32, decoder_layers=2,
            dim_feedforward=16, text_encoder_width=16, text_encoder_num_layers=1,
            text_encoder_vocab_size=20, is_training=False,
        ),
        _maps,
    ),
    "maskformer": Composite(peers.build_maskformer, _maps),
    "upernet": Composite(lambda: _upernet("Swin"), _maps),
    "upernet-v2": Composite(lambda: _upernet("Swinv2"), _maps),
    "dpt-v2": Composite(
        lambda: _model(
            "DPTForDepthEstimation", "DPTConfig", backbone_config=swin_config("Swinv2"),
            neck_hidden_sizes=[16, 32, 64, 128], fusion_hidden_size=16,
            reassemble_factors=[1, 1, 1, 1], is_hybrid=False,
        ),
        _maps,
    ),
    "grounding-dino": _detector("GroundingDino"),
    "mm-grounding-dino": _detector("MMGroundingDino"),
    "deformable-detr": _detector("DeformableDetr", **OWN),
    "detr": _detector("Detr", **OWN),
    "rt-detr": _detector(
        "RTDetr", encoder_hidden_dim=32, encoder_in_channels=[32, 64, 128],
        feat_strides=[8, 16, 32],
    ),
    "omdet-turbo": Composite(_omdet, _maps),
    "donut": Composite(lambda: _reader("donut"), _tokens("encoder")),
    "swin-reader": Composite(lambda: _reader("swin"), _tokens("encoder")),
    "swin-reader-unpooled": Composite(
        lambda: _reader("swin", add_pooling_layer=False), _tokens("encoder")
    ),
    "image-text": Composite(lambda: _pair("swin"), _features("vision_model")),
    "image-text-v2": Composite(lambda: _pair("swinv2"), _features("vision_model")),
    "masked": Composite(
        lambda: peers.build_huggingface("swin", MASKED, encoder_stride=8), _features("swin")
    ),
    "masked-v2": Composite(
        lambda: peers.build_huggingface("swinv2", MASKED, encoder_stride=8), _features("swinv2")
    ),
    "backbone": Composite(
        lambda: peers.build_huggingface("swin", "Backbone", out_features=["stage1", "stage3"]),
        _maps,
    ),
    "backbone-v2": Composite(
        lambda: peers.build_huggingface("swinv2", "Backbone", out_features=["stage1", "stage3"]),
        _maps,
    ),
    "donut-classifier": Composite(
        lambda: peers.build_huggingface("donut", "ForImageClassification"), _logits
    ),
    "classifier": Composite(lambda: peers.build_huggingface("swin"), _logits),
    "donut-encoder": Composite(lambda: peers.build_huggingface("donut", "Model"), _tokens("")),
}  # fmt: skip
