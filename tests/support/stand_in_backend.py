"""A Python-based backend of Triton in the place of ONNX Runtime's and TensorRT's.

It runs the file of the version's folder in ONNX Runtime on the CPU: ``model.onnx``, or an ONNX file
under the name ``model.plan``.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config: Any) -> Any:  # noqa: ANN401 - Triton's own object
        return config

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        plan = config.get("platform") == "tensorrt_plan" or config.get("backend") == "tensorrt"
        name = config.get("default_model_filename") or ("model.plan" if plan else "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.path.join(folder, name), options, providers=["CPUExecutionProvider"]
        )
        fixed = [one for one in self.session.get_inputs() if isinstance(one.shape[0], int)]
        if fixed and config["max_batch_size"]:  # as both backends refuse it
            raise ValueError(f"{fixed[0].name}: for batching the first dimension must be -1")
        self.inputs = [one.name for one in self.session.get_inputs()]
        self.outputs = [one.name for one in self.session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        given = [
            {name: triton.get_input_tensor_by_name(one, name).as_numpy() for name in self.inputs}
            for one in requests
        ]
        joined = {name: np.concatenate([one[name] for one in given]) for name in self.inputs}
        made = self.session.run(self.outputs, joined)
        responses, start = [], 0
        for one in given:
            end = start + len(one[self.inputs[0]])
            tensors = [
                triton.Tensor(name, np.ascontiguousarray(values[start:end]))
                for name, values in zip(self.outputs, made, strict=True)
            ]
            responses.append(triton.InferenceResponse(output_tensors=tensors))
            start = end
        return responses
