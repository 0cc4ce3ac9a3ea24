"""A reader of documents from end to end: Nougat's folder, its own processor and its encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error
from photographs import write_photographs
from PIL import Image

SIZE = {"height": 128, "width": 96}


@pytest.fixture(scope="module")
def nougat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nougat: a DonutSwin and a decoder of text, with NougatImageProcessor's file next to them."""
    library = peers.import_peer("transformers")
    folder = tmp_path_factory.mktemp("models") / "nougat"
    encoder = peers.build_huggingface(
        "donut", "Model", image_size=[SIZE["height"], SIZE["width"]], window_size=4
    )
    words = library.MBartConfig(
        d_model=16, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=50,
        is_decoder=True, add_cross_attention=True, is_encoder_decoder=False,
    )  # fmt: skip
    decoder = library.MBartForCausalLM(words)
    both = library.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    peers.trained_like(both).save_pretrained(folder)
    library.NougatImageProcessorPil(size=SIZE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four pictures, and a page with a white margin."""
    paths = write_photographs(tmp_path_factory.mktemp("pages"))
    for path in paths[4:]:
        path.unlink()
    page = np.full((330, 240, 3), 252, np.uint8)
    page[40:290, 50:200] = np.random.default_rng(0).integers(0, 256, (250, 150, 3))
    Image.fromarray(page).save(paths[0].parent / "00-page.png")
    return sorted(paths[0].parent.iterdir())


def test_nougat_from_its_folder_to_the_features_of_pages(
    nougat: Path, pages: list[Path], swin: Command
) -> None:
    """Features of the folder and of its export equal those of the library's model and processor."""
    library = peers.import_peer("transformers")
    load = peers.import_peer("transformers.image_utils").load_image
    theirs = library.NougatImageProcessorPil.from_pretrained(nougat)
    pixels = theirs([load(str(path)) for path in pages], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        model = library.VisionEncoderDecoderModel.from_pretrained(nougat).eval()
        wanted = model.encoder(pixels.float()).last_hidden_state
    done = swin("export", "--checkpoint", nougat, "--output", "n.onnx").assert_done()
    assert "cut off the margin" in done.err
    assert "shrink to fit, bicubic in two steps, in the middle of 128x96, black" in done.err
    manifest = json.loads(Path("n.onnx.json").read_text())
    page = {"crop_margin": True, "align_long_axis": False, "thumbnail": "nougat"}
    assert manifest["preprocessing"]["page"] == page
    folder = pages[0].parent
    swin("parity", "--checkpoint", nougat, "--onnx", "n.onnx", "--images", folder).assert_done()
    for source in (nougat, "n.onnx"):
        swin("predict", source, folder, "--features", "tokens.npz", "--force").assert_done()
        kept = np.load("tokens.npz")
        made = torch.from_numpy(kept["tokens"])
        assert rms_error(made, wanted) < FLOAT32_TOLERANCE
    plain = ("--resize-mode", "pad", "--features", "other.npz")
    swin("predict", nougat, folder, *plain).assert_done()
    assert rms_error(torch.from_numpy(np.load("other.npz")["tokens"]), wanted) > REJECTED


def test_page_of_another_size_is_that_of_a_processor_of_that_size(
    nougat: Path, pages: list[Path], swin: Command, tmp_path: Path
) -> None:
    library = peers.import_peer("transformers")
    load = peers.import_peer("transformers.image_utils").load_image
    other = library.NougatImageProcessorPil(size={"height": 64, "width": 96})
    swin("predict", nougat, pages[0], "--image-size", "64x96", "--features", "a.npz").assert_done()
    pixels = other(load(str(pages[0])), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        model = library.VisionEncoderDecoderModel.from_pretrained(nougat).eval()
        wanted = model.encoder(pixels.float()).last_hidden_state
    assert rms_error(torch.from_numpy(np.load("a.npz")["tokens"]), wanted) < FLOAT32_TOLERANCE
