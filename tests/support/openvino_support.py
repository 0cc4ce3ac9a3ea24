"""An OpenVINO that does not compile what it is given."""

from __future__ import annotations

from typing import Any

import pytest

from exporters.backends import load_openvino


def refuse_to_compile(monkeypatch: pytest.MonkeyPatch, *, most_outputs: int = 0) -> None:
    """Let OpenVINO compile no model of more outputs, as where it has no kernel for one."""
    runtime = load_openvino()

    class Refusing(runtime.Core):  # type: ignore[misc, name-defined] # openvino is untyped
        def compile_model(self, model: Any, *settings: Any) -> Any:  # noqa: ANN401 - as above
            if len(model.outputs) > most_outputs:
                raise RuntimeError("Exception from src/core.cpp:1:\nno kernel for it")
            return super().compile_model(model, *settings)

    monkeypatch.setattr(runtime, "Core", Refusing)
