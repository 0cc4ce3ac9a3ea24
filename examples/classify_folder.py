"""Say what is in every picture of a folder.

The model is a checkpoint, an ONNX file, an engine, or a name such as notebook-digits:

    python examples/classify_folder.py engines/swin.onnx photos/
"""

import sys
from pathlib import Path

import swin_deploy

model, folder = sys.argv[1:]
kinds = (".jpeg", ".jpg", ".png", ".webp")
paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in kinds)
with swin_deploy.Predictor(model, top=3) as predictor:
    for answer in predictor.stream(paths):  # a batch at a time; one bad picture stops nothing
        named = ", ".join(f"{one.label} {one.probability:.1%}" for one in answer.top)
        print(f"{answer.image}: {named or answer.error}")
