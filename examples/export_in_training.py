"""Train timm's Swin on the class folders in photos/, then export it, and check the export.

The sizes are small, so that this ends in a minute; without SIZES it is Swin-T at 224 pixels:

    python examples/export_in_training.py
"""

import timm
import torch

import swin_deploy

SIZES = {"img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
data = timm.data.ImageDataset("photos")
names = list(data.reader.class_to_idx)
model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=len(names), **SIZES)
steps = timm.data.resolve_data_config({"input_size": (3, 56, 56)}, model=model)
data.transform = timm.data.create_transform(**steps)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(8):
    for images, labels in torch.utils.data.DataLoader(data, batch_size=32, shuffle=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
timm.models.save_for_hf(model, "trained", {"label_names": names}, model_args=SIZES)
trained = swin_deploy.load("trained")  # with the class names and the preprocessing
onnx = trained.export("trained.onnx", precision="fp16")
print(swin_deploy.check(trained, onnx.path, images="photos"))
