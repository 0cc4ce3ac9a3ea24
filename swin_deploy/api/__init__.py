"""The Python API: what the commands do, as functions from values to values.

===========  ==============================================================
``border``   checks of what a caller gives
``checks``   from a model and what was made of it to a report on both
``engines``  from an ONNX file to a TensorRT engine
``models``   from a checkpoint to a model, and from a model to an ONNX file
===========  ==============================================================

    model = swin_deploy.load("swin.pt")
    onnx = model.export("swin.onnx", precision="fp16")
    engine = swin_deploy.build(onnx.path)
    report = swin_deploy.check(model, onnx.path, engine.path, images="photos")

``swin_deploy`` has these names. What cannot be done raises a ``swin_deploy.DeployError``, in one
line.
"""
