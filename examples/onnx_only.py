"""Answer with onnxruntime, NumPy and Pillow alone: all that a service needs of an exported file.

The file's metadata say how pictures are prepared and what its classes are called. The resize modes
"pad", "square", "fit" and "none", which no published Swin has, and rectangles are left out here.

    python examples/onnx_only.py swin.onnx photo.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
facts = session.get_modelmeta().custom_metadata_map
steps, names = json.loads(facts["preprocessing"]), json.loads(facts["class_names"])
side, crop, mode = steps["resize"], steps["crop"], {1: "L", 3: "RGB", 4: "RGBA"}[len(steps["mean"])]
image: Image.Image = Image.open(sys.argv[2])
image = (ImageOps.exif_transpose(image) if steps["turn"] else image).convert(mode)
shortest = tuple(int(side * one / min(image.size)) for one in image.size)
size = {"shortest": shortest, "squash": (side, side)}[steps["resize_mode"]]
image = image.resize(size, Image.Resampling[steps["interpolation"].upper()])
left, top = (round((one - crop) / 2) for one in size)
pixels = np.atleast_3d(np.asarray(image.crop((left, top, left + crop, top + crop))))
# [crop, crop, C] -> [1, C, crop, crop]
batch = ((pixels * steps["rescale"] - steps["mean"]) / steps["std"]).transpose(2, 0, 1)[None]
logits = session.run(["logits"], {"images": batch.astype(np.float32)})[0][0]
shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
print(f"{(names or range(len(shares)))[shares.argmax()]} {shares.max():.1%}")
