"""A folder that OpenVINO Model Server loads, whose clients prepare the pictures themselves."""

from __future__ import annotations

import json

from swin_deploy.serving.scores_model import LABELS_FILE
from swin_deploy.serving.served import Served
from swin_deploy.serving.standalone import standalone
from swin_deploy.serving.triton import REPOSITORY, Files, labels_file, steps_files, version_files

# Processors with AMX would run float32 in bfloat16, which is another model than was proved.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def ovms_files(served: Served, name: str) -> Files:
    """Return the files of the folder, by path, without the client.

    Args:
        served: The file to serve.
        name: Name of the model for clients.
    """
    entry = {"name": name, "base_path": f"{REPOSITORY}/{name}", "plugin_config": EXACT}
    config = {"model_config_list": [{"config": entry}]}
    files = version_files(served, name) | steps_files(served, "prepare", code="preprocessing.py")
    files["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    if served.classifies:
        files[LABELS_FILE] = labels_file(served)
        files["answers.py"] = standalone("swin_deploy.serving.scores_model", "answer_to").encode()
    return files
