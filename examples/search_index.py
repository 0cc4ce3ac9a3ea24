"""Find the pictures of a folder that are most like one, by the model's pooled features.

The model is a checkpoint, or a name such as notebook-digits:

    python examples/search_index.py swin.pt photos/ query.jpg
"""

import sys
from pathlib import Path

import numpy as np

import swin_deploy

checkpoint, folder, query = sys.argv[1:]
paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".png"))
with swin_deploy.Predictor(checkpoint, output="features") as predict:
    rows = np.stack([answer.outputs["features"] for answer in predict([*paths, query])])
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
index, wanted = rows[:-1], rows[-1]  # [pictures, channels] is what a search index stores
likeness = index @ wanted  # cosine
for place in np.argsort(-likeness)[:5]:
    print(f"{likeness[place]:.3f} {paths[place]}")
