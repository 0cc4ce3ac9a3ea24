"""Answers to a data set on a Ray cluster, each image once, by a loop of your own.

    python examples/ray_batch.py swin.onnx photos/ answers/ auto

The same run goes on where it stopped. ``swin-deploy predict ARTIFACT photos/ --parquet answers/
--ray auto`` is all of this with progress and warnings; take the loop to stop after a while, to
choose the parts, or to count on the way. ``local`` instead of ``auto`` uses this machine's cores.
"""

import sys
from functools import partial
from pathlib import Path

import swin_deploy
from swin_deploy.bulk.on_ray import Cluster
from swin_deploy.bulk.output import AnswerFolder, key_of
from swin_deploy.bulk.sources import find_sources

artifact, images, out, address = sys.argv[1:]
sources = find_sources([images])
load = partial(swin_deploy.Predictor, artifact)
with Cluster(address, load, Path(out), workers=None) as cluster:
    model = cluster.describe()
    key = key_of(model, sources, size=4096)
    with AnswerFolder(Path(out), key, force=False) as folder:
        missing, _ = folder.missing(sources.parts(size=4096, key=key))
        for rows, seen in cluster.make(missing, model):
            print(f"{rows} images, {seen.failed} without an answer")
        files, rows, failed = folder.count()
        print(f"{out}: {rows} images in {files} files, {failed} without an answer")
