"""Files and folders of every source, small, and the options that they need."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gone
import peers
import torch

from exporters.progress import silent
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.images.sets import seeded_images
from swin_deploy.original.build import original_library
from swin_deploy.parity import Hop
from swin_deploy.parity.run import judge_original, reference_outputs

Asked = dict[str, Any]
TINY: Asked = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}
V2 = {"window_size": 4, "img_size": 64}


def hop_of(loaded: LoadedModel) -> Hop:
    """The hop of the original, on noise."""
    images = (seeded_images(loaded.config, count=3),)
    outputs = reference_outputs(loaded, images, precisions=("fp32",))
    library = original_library(loaded, "auto")
    (hop,) = judge_original(loaded, outputs, library, progress=silent)
    return hop


def timm_file(
    family: str,
    suffix: str = ".pth",
    **arguments: Any,  # noqa: ANN401
) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        model = peers.build_timm(family, **TINY, **arguments)
        return peers.saved(model.state_dict(), folder / f"w{suffix}")

    return write


def timm_folder(family: str, **arguments: Any) -> Callable[[Path], Path]:  # noqa: ANN401
    def write(folder: Path) -> Path:
        timm = peers.import_peer("timm")
        name = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}[family]
        fields = {"img_size": 64, "window_size": 4, "num_classes": 10, **TINY, **arguments}
        model = peers.trained_like(timm.create_model(name, **fields))
        timm.models.save_for_hf(model, str(folder), model_args=fields, safe_serialization=True)
        return folder

    return write


def timm_extractor(folder: Path) -> Path:
    """A file of ``features_only=True`` inside another model."""
    timm = peers.import_peer("timm")
    fields = {"img_size": 64, "window_size": 4, "features_only": True, **TINY}
    model = peers.trained_like(timm.create_model("swin_tiny_patch4_window7_224", **fields))
    state = {f"encoder.model.{name}": value for name, value in model.state_dict().items()}
    return peers.saved(state, folder / "unet.pth")


def esvit(folder: Path) -> Path:
    """The authors' names, a student and a teacher, and heads of training without labels."""
    heads = {"head.mlp.0.weight": torch.ones(4, 32), "head_dense.mlp.0.weight": torch.ones(4, 32)}
    models = [
        peers.trained_like(peers.build_timm("swin", **TINY, num_classes=0), seed) for seed in (0, 1)
    ]
    student, teacher = (peers.microsoft_state(model) | heads for model in models)
    torch.save({"student": student, "teacher": teacher}, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def timm_wrapper(folder: Path) -> Path:
    """A folder as transformers' TimmWrapper saves it."""
    timm_folder("swin")(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "model.safetensors").unlink()
    model = peers.build_timm("swin", **TINY)
    state = {f"timm_model.{name}": value for name, value in model.state_dict().items()}
    peers.saved(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "timm_wrapper"}))
    return folder


def authors_file(family: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        model = peers.build_timm(family, **TINY)
        torch.save({"model": peers.microsoft_state(model)}, folder / "swin.pth")
        return folder / "swin.pth"

    return write


def torchvision_file(family: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        model = peers.build_torchvision(family, **TINY)
        return peers.saved(model.state_dict(), folder / "tv.pth")

    return write


def hf_folder(family: str, kind: str, **sizes: Any) -> Callable[[Path], Path]:  # noqa: ANN401
    def write(folder: Path) -> Path:
        peers.build_huggingface(family, kind, **TINY, **sizes).save_pretrained(folder)
        return folder

    return write


def maskformer(folder: Path) -> Path:
    peers.build_maskformer().save_pretrained(folder)
    return folder


def mask2former(folder: Path) -> Path:
    library = peers.import_peer("transformers")
    backbone = library.SwinConfig(
        embed_dim=16, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=2, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = library.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=1, num_attention_heads=2,
        dim_feedforward=16, num_queries=4,
    )  # fmt: skip
    peers.trained_like(library.Mask2FormerForUniversalSegmentation(config)).save_pretrained(folder)
    return folder


def donut(folder: Path) -> Path:
    library = peers.import_peer("transformers")
    encoder = peers.build_huggingface("donut", "Model", **TINY)
    words = library.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        vocab_size=20, is_decoder=True, add_cross_attention=True,
    )  # fmt: skip
    decoder = library.BertLMHeadModel(words)
    library.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder).save_pretrained(folder)
    return folder


def ema_file(folder: Path) -> Path:
    raw = peers.build_timm("swin", **TINY)
    ema = peers.trained_like(peers.build_timm("swin", **TINY), seed=1)
    values = {"state_dict": raw.state_dict(), "state_dict_ema": ema.state_dict(), "epoch": 3}
    torch.save(values, folder / "model_best.pth.tar")
    return folder / "model_best.pth.tar"


def own_ema_file(folder: Path) -> Path:
    """Keys that timm does not know, a counter, and a prefix."""
    raw = peers.build_timm("swin", **TINY)
    ema = peers.trained_like(peers.build_timm("swin", **TINY), seed=1)
    states = [
        {f"module.net.{name}": value for name, value in model.state_dict().items()}
        for model in (raw, ema)
    ]
    torch.save(
        {"net": states[0], "ema": {"n_averaged": torch.tensor(3), **states[1]}}, folder / "a.pt"
    )
    return folder / "a.pt"


def compiled_file(start: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        model = peers.build_timm("swin", **TINY)
        state = {f"{start}{name}": value for name, value in model.state_dict().items()}
        return peers.saved(state, folder / "compiled.pth")

    return write


def references_file(folder: Path) -> Path:
    """timm's weights in the layout of torchvision's train.py."""
    model = peers.build_timm("swin", **TINY)
    average = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"model_ema": {"n_averaged": torch.tensor(3), **average}}, folder / "b.pth")
    return folder / "b.pth"


def torchvision_ema_file(folder: Path) -> Path:
    model = peers.build_torchvision("swin", **TINY)
    ema = peers.trained_like(peers.build_torchvision("swin", **TINY), seed=1)
    state = {f"module.{name}": value for name, value in ema.state_dict().items()}
    average = {"n_averaged": torch.tensor(2), **state}
    torch.save({"model": model.state_dict(), "model_ema": average}, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def args_file(folder: Path) -> Path:
    """As timm's train.py saves it."""
    path = ema_file(folder)
    values = torch.load(path, weights_only=True)
    torch.save(values | {"args": argparse.Namespace(model="swin", img_size=64)}, path)
    return path


def config_file(folder: Path) -> Path:
    """As the authors' main.py saves it, with a config of a class that is gone."""
    state = peers.microsoft_state(peers.build_timm("swin", **TINY))
    with gone.package() as package:
        config = package.CfgNode({"DATA": {"IMG_SIZE": 64}})
        torch.save({"model": state, "config": config, "epoch": 3}, folder / "ckpt_epoch_60.pth")
    return folder / "ckpt_epoch_60.pth"


def arrays_file(folder: Path) -> Path:
    """As Detectron2's converters write it: a pickle of NumPy arrays."""
    state = peers.build_timm("swin", **TINY).state_dict()
    arrays = {name: value.numpy() for name, value in state.items()}
    (folder / "w.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}))
    return folder / "w.pkl"


def module_file(folder: Path) -> Path:
    torch.save({"model": peers.build_timm("swin", **TINY)}, folder / "whole.pt")
    return folder / "whole.pt"


def torchvision_module_file(folder: Path) -> Path:
    torch.save(peers.build_torchvision("swin", **TINY), folder / "tv_whole.pt")
    return folder / "tv_whole.pt"


SIZE = {"img_size": 64}
CLASSIFIER = "ForImageClassification"
FILES: dict[str, tuple[Callable[[Path], Path], Asked]] = {
    "timm-file": (timm_file("swin"), SIZE),
    "timm-safetensors": (timm_file("swin", ".safetensors"), SIZE),
    "timm-v2-file": (timm_file("swinv2"), V2),
    "timm-folder": (timm_folder("swin"), {}),
    "timm-v2-folder": (timm_folder("swinv2"), {}),
    "timm-folder-larger": (timm_folder("swin"), {"img_size": 128}),
    "timm-folder-window": (timm_folder("swin"), {"img_size": 128, "window_size": 8}),
    "timm-v2-folder-window": (timm_folder("swinv2"), {"img_size": 128, "window_size": 8}),
    "timm-always-partition": (timm_folder("swin", always_partition=True, img_size=32), {}),
    "timm-windows": (timm_folder("swin", window_size=((4, 4), (8, 8)), img_size=128), {}),
    "timm-ratio": (timm_folder("swin", mlp_ratio=2.6), {}),
    "timm-no-bias": (timm_folder("swin", qkv_bias=False), {}),
    "timm-ratios": (timm_folder("swin", mlp_ratio=[2.0, 3.0]), {}),
    "timm-pool": (timm_folder("swin", global_pool="max"), {}),
    "timm-v2-activation": (timm_folder("swinv2", act_layer="silu", global_pool="avgmax"), {}),
    "timm-v2-asked": (timm_file("swinv2", act_layer="relu"), {**V2, "activation": "relu"}),
    "timm-asked-pool": (timm_file("swin", global_pool="max"), {**SIZE, "pool": "max"}),
    "timm-wrapper": (timm_wrapper, {}),
    "timm-ema": (ema_file, SIZE),
    "timm-ema-raw": (ema_file, {**SIZE, "weights": "raw"}),
    "timm-ema-key": (ema_file, {**SIZE, "weights": "state_dict"}),
    "timm-own-ema": (own_ema_file, SIZE),
    "timm-compiled": (compiled_file("_orig_mod."), SIZE),
    "timm-compiled-parallel": (compiled_file("module._orig_mod."), SIZE),
    "timm-inside": (compiled_file("model.backbone."), SIZE),
    "timm-references": (references_file, SIZE),
    "timm-args": (args_file, {}),
    "timm-arrays": (arrays_file, SIZE),
    "timm-module": (module_file, {}),
    "torchvision-module": (torchvision_module_file, SIZE),
    "authors-config": (config_file, {}),
    "timm-extractor": (timm_extractor, SIZE),
    "authors-esvit": (esvit, SIZE),
    "authors-file": (authors_file("swin"), {}),
    "authors-v2-file": (authors_file("swinv2"), {}),
    "torchvision": (torchvision_file("swin"), SIZE),
    "torchvision-v2": (torchvision_file("swinv2"), SIZE),
    "torchvision-ema": (torchvision_ema_file, SIZE),
    "hf": (hf_folder("swin", "ForImageClassification"), {}),
    "hf-v2": (hf_folder("swinv2", "ForImageClassification"), {}),
    "hf-activation": (hf_folder("swin", CLASSIFIER, hidden_act="gelu_new"), {}),
    "hf-places": (hf_folder("swin", CLASSIFIER, use_absolute_embeddings=True), {}),
    "hf-v2-epsilon": (hf_folder("swinv2", CLASSIFIER, layer_norm_eps=0.1), {}),
    "hf-larger": (hf_folder("swin", "ForImageClassification"), {"img_size": 128}),
    "hf-v2-larger": (hf_folder("swinv2", CLASSIFIER, window_size=16), {"img_size": 128}),
    "hf-encoder": (hf_folder("swin", "Model"), {}),
    "hf-v2-encoder": (hf_folder("swinv2", "Model"), {}),
    "hf-masked": (hf_folder("swin", "ForMaskedImageModeling", encoder_stride=8), {}),
    "hf-backbone": (hf_folder("swin", "Backbone", out_features=["stage1", "stage2"]), {}),
    "hf-v2-backbone": (hf_folder("swinv2", "Backbone", out_features=["stage1"]), {}),
    "hf-donut": (donut, {}),
    "hf-donut-classifier": (hf_folder("donut", CLASSIFIER), {}),
    "hf-maskformer": (maskformer, {}),
    "hf-maskformer-larger": (maskformer, {"img_size": 128}),
    "hf-mask2former": (mask2former, {}),
}  # fmt: skip
