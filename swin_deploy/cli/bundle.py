"""``swin-deploy bundle``: the folder that a server loads, and checks of a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import swin_deploy.cli.options as shared
from swin_deploy.cli.command import command
from swin_deploy.cli.console import CHECK_FAILED, Console, show_json, show_line, show_table
from swin_deploy.cli.inputs import require_images, requiring
from swin_deploy.cli.options import json_option
from swin_deploy.cli.values import FILE

if TYPE_CHECKING:
    from swin_deploy.serving.bundle import Target
    from swin_deploy.serving.make import Made
    from swin_deploy.serving.triton import Decoder

# The names in swin_deploy.serving, which is not imported for --help.
TARGET_NAMES = ("triton", "kserve", "ovms", "optimum")
DECODER_NAMES = ("pillow", "dali")
OF_MAKING = ("target", "output", "name", "decoder", "reference", "images", "force")
MOST_PICTURES = 16
MOST_LOAD_S = 3600

EPILOG = """\b
Examples:
  swin-deploy bundle engines/swin-fp16-opset17.onnx --for triton --output serve/
  swin-deploy bundle engines/swin-fp16-opset17.engine --for kserve --output serve/
  swin-deploy bundle engines/swin-fp32-opset17.onnx --for optimum --output hub/
  swin-deploy bundle serve/ --check http://127.0.0.1:8000

\b
A bundle for a server carries golden pictures with the outputs that were proved;
swin-deploy parity --server URL --bundle DIR compares a server in use with them.

\b
Exit status: 0 made, or every check passed; 1 a check failed, 2 wrong usage,
3 could not run.
"""


@command(epilog=EPILOG)
@click.argument("artifact", metavar="ARTIFACT", type=FILE, shell_complete=shared.complete_artifacts)
@click.option("--for", "target", type=click.Choice(TARGET_NAMES), help="The server to make it for.")
@click.option("--output", type=FILE, metavar="DIR", help="Folder of the bundle.  [default: bundle]")
@click.option("--name", help="Name of the model for clients.  [default: the model's]")
@click.option(
    "--preprocessing",
    "decoder",
    type=click.Choice(DECODER_NAMES),
    help="Library that prepares pictures in Triton: Pillow as predict does, or DALI, which is near "
    "it and was not run in Triton.  [default: pillow]",
)
@click.option(
    "--reference",
    type=FILE,
    metavar="FILE",
    help="Checkpoint or ONNX file that gives the golden outputs.  [default: ARTIFACT, or the ONNX "
    "file of an engine that cannot run here]",
)
@click.option(
    "--images",
    type=FILE,
    callback=requiring(require_images),
    help=f"Golden pictures to put into the bundle, up to {MOST_PICTURES} of this folder.  "
    "[default: made ones]",
)
@click.option(
    "--check", "url", metavar="URL", help="Check a server that serves the bundle ARTIFACT."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, MOST_LOAD_S),
    help="Time of requests by several clients for --check.  [default: 3]",
)
@click.option("--force", is_flag=True, help="Replace a bundle that was changed since it was made.")
@json_option
@click.pass_obj
def bundle(
    console: Console,
    artifact: Path,
    target: Target | None,
    output: Path | None,
    name: str | None,
    decoder: Decoder | None,
    reference: Path | None,
    images: Path | None,
    url: str | None,
    seconds: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Make the folder that a server loads, with its preprocessing, labels and proof.

    ARTIFACT is an ONNX file or an engine that swin-deploy made; with --check the folder of a
    bundle. Triton takes encoded pictures and gives labels; OpenVINO Model Server takes prepared
    images, and its client prepares them; Optimum's folder is loaded by from_pretrained.
    """
    given = {
        "target": target,
        "output": output,
        "name": name,
        "decoder": decoder,
        "reference": reference,
        "images": images,
        "force": force or None,
    }
    if url is not None:
        _refuse_with_check([one for one, value in given.items() if value is not None])
        _check(console, artifact, url, seconds=seconds or 3.0, as_json=as_json)
        return
    if target is None:
        raise click.UsageError(f"give --for {', '.join(TARGET_NAMES)}, or --check URL")
    if seconds is not None:
        raise click.UsageError("--seconds is of --check")
    with console.step("Making the bundle"):
        from swin_deploy.images.labelled import find_images
        from swin_deploy.serving.bundle import claim_folder
        from swin_deploy.serving.make import Wish, make_bundle, require_target
        from swin_deploy.serving.served import read_served

        served = read_served(artifact)
        wish = Wish(
            target,
            served.name if name is None else name,
            decoder or "pillow",
            reference,
            [images / one for one in find_images(images)[:MOST_PICTURES]] if images else (),
        )
        require_target(served, wish)
        folder = output or Path("bundle")
        claim_folder(folder, inputs=served.files, force=force)
        made = make_bundle(served, folder, wish, force=force)
    _show(console, made, as_json=as_json)


def _refuse_with_check(given: list[str]) -> None:
    """Refuse options that make a bundle where one is checked."""
    names = {"target": "for", "decoder": "preprocessing"}
    if given:
        raise click.UsageError(
            f"--check takes a bundle that is there, and --{names.get(given[0], given[0])} makes one"
        )


def _show(console: Console, made: Made, *, as_json: bool) -> None:
    """Show what was made, what is to be settled, and the next step."""
    for note in made.notes:
        console.note(f"  {note}")
    for warning in made.warnings:
        console.warn(warning)
    folder, files = made.bundle.folder, made.manifest["files"]
    if as_json:
        show_json(made.manifest | {"folder": str(folder)})
    else:
        show_line(
            f"{folder}: {len(files)} files for {made.bundle.service.target}, start with "
            f"{folder / 'README.md'}"
        )
    if made.bundle.service.golden is not None:
        console.next_step(
            "bundle", folder, "--check", "http://127.0.0.1:8000", why="once the server runs"
        )


def _check(console: Console, folder: Path, url: str, *, seconds: float, as_json: bool) -> None:
    """Check a server before it is put into use."""
    with console.step("Checking the server"):
        from swin_deploy.serving.bundle import read_bundle
        from swin_deploy.serving.check import check_server
        from swin_deploy.serving.protocol import Server

        report = check_server(read_bundle(folder), Server(url), seconds=seconds)
    from swin_deploy.report.servers import render_server, server_json

    if as_json:
        show_json(server_json(report))
    else:
        show_table(render_server(report))
    if not report.passed:
        click.get_current_context().exit(CHECK_FAILED)
    console.next_step(
        "parity", "--server", url, "--bundle", folder, why="the canary, while it is in use"
    )
