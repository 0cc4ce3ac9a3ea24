"""Turn any ``nn.Module`` or ONNX file into artefacts: ONNX, half precision, engine, kernel plan."""
