"""The Python API: the work of the commands, as functions from values to values.

===========  ==============================================================
``border``   checks of a caller's arguments, as Click makes them for commands
``checks``   from a model and the files made from it to a parity report
``engines``  from an ONNX file to a TensorRT engine
``models``   from a checkpoint to a model, and from a model to an ONNX file
``sizes``    one model at several image sizes, to ONNX files that share their weights
``swaps``    from a model around a Swin to the same around the deploy model
===========  ==============================================================

    model = swin_deploy.load("swin.pt")
    onnx = model.export("swin.onnx", precision="fp16")
    engine = swin_deploy.build(onnx.path)
    report = swin_deploy.check(model, onnx.path, engine.path, images="photos")

``swin_deploy`` has these names. Every failure is a ``swin_deploy.DeployError`` with a message of
one line.
"""
