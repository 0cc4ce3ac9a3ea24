"""Hostile options: names that no file has, numbers beyond any use, packages that do not load."""

import os
from collections.abc import Iterator
from pathlib import Path

from command_line import DIGITS, STEM
from hostile_run import Case

LONG = {
    "name of 300 letters": "x" * 300,
    "name of 256 bytes": "é" * 128,
    "path of 5,000 letters": "a/" * 2_500,
    "path of 100,000 letters": "x" * 100_000,
    "line breaks": "a\nb\r\x1b[31m\u202e",
    "no text": os.fsdecode(b"\xff\xfe"),
    "empty": "",
    "blank": " ",
    "dots": "../" * 1_000,
    "root": "/",
    "null device": "/dev/null",
    "endless device": "/dev/zero",
    "procfs": "/proc/self/mem",
}
MODEL = ("--model", "notebook-digits")
# Commands that take a path, without it.
PATHS: dict[str, tuple[object, ...]] = {
    "export --checkpoint": ("export", "--output", "out/x.onnx", "--checkpoint"),
    "evaluate --checkpoint": ("evaluate", "--output", "out", "--checkpoint"),
    "evaluate --data": ("evaluate", *MODEL, "--output", "out", "--data"),
    "evaluate --classes": ("evaluate", *MODEL, "--output", "out", "--limit", "20", "--classes"),
    "evaluate --preprocessing": ("evaluate", *MODEL, "--output", "out", "--preprocessing"),
    "evaluate --onnx": ("evaluate", *MODEL, "--output", "out", "--onnx"),
    "evaluate --output": ("evaluate", "--data", "nowhere", *MODEL, "--output"),
    "parity --images": ("parity", *MODEL, "--images"),
    "parity --engine": ("parity", *MODEL, "--engine"),
    "bench --report": ("bench", *MODEL, "--onnx", "nowhere.onnx", "--report"),
    "plan": ("plan",),
    "predict": ("predict", "notebook-digits"),
    "predict --csv": ("predict", "notebook-digits", "nowhere.png", "--csv"),
    "predict --features": ("predict", "notebook-digits", "nowhere.png", "--features"),
    "build-trt": ("build-trt", "--fp16"),
    "build-trt --output": ("build-trt", "nowhere.onnx", "--output"),
    "build-trt --timing-cache": ("build-trt", "nowhere.onnx", "--timing-cache"),
    "report": ("report",),
    "report --evaluation": ("report", "nowhere.json", "--evaluation"),
    "report --markdown": ("report", "nowhere.json", "--markdown"),
}
NUMBERS = (
    "0",
    "-1",
    "1e9",
    "nan",
    "inf",
    "56000000",
    "28000",
    str(1 << 40),
    "9" * 30,
    "9" * 5_000,
    "x" * 100_000,
    "",
    "0x10",
    "٣",
)
CHECKPOINT = ("--checkpoint", DIGITS)
COUNTS: dict[str, tuple[object, ...]] = {
    "export --image-size": ("export", *MODEL, "--output", "out/x.onnx", "--image-size"),
    "export --image-size of a checkpoint": ("export", *CHECKPOINT, "--image-size"),
    "evaluate --image-size": ("evaluate", *MODEL, "--output", "out", "--image-size"),
    "parity --image-size": ("parity", "--model", "swin_tiny_patch4_window7_224", "--image-size"),
    "parity --window-size": ("parity", "--model", "swin_tiny_patch4_window7_224", "--window-size"),
    "export --window-size": ("export", *CHECKPOINT, "--window-size"),
    "export --batch": ("export", "--checkpoint", "nowhere.pt", "--batch"),
    "export --opset": ("export", "--checkpoint", "nowhere.pt", "--opset"),
    "bench --batch": ("bench", "--model", "notebook-swin-t", "--seconds", "1", "--batch"),
    "parity --batches": ("parity", *MODEL, "--onnx", "nowhere.onnx", "--batches"),
    "predict --top": ("predict", "notebook-digits", "nowhere.png", "--top"),
    "predict --batch": ("predict", "notebook-digits", "nowhere.png", "--batch"),
    "parity --limit": ("parity", *MODEL, "--onnx", "nowhere.onnx", "--limit"),
    "evaluate --batch": ("evaluate", *MODEL, "--onnx", "nowhere.onnx", "--batch"),
    "evaluate --max-drop": ("evaluate", *MODEL, "--onnx", "nowhere.onnx", "--max-drop"),
    "build-trt --workspace": ("build-trt", "nowhere.onnx", "--workspace"),
    "build-trt --batch": ("build-trt", "nowhere.onnx", "--batch"),
    "bench --seconds": ("bench", *MODEL, "--onnx", "nowhere.onnx", "--seconds"),
    "plan --batch": ("plan", "nowhere.onnx", "--batch"),
    "parity --mean": ("parity", *MODEL, "--onnx", "nowhere.onnx", "--mean"),
    "parity --crop-ratio": ("parity", *MODEL, "--onnx", "nowhere.onnx", "--crop-ratio"),
    "report --allow-slower": ("report", "a", "b", "--allow-slower"),
    "parity --model": ("parity", "--model"),
    "parity --source": ("parity", "--checkpoint", "nowhere.pt", "--source"),
    "a command": (),
}
BROKEN = {
    "RuntimeError": "raise RuntimeError('operator torchvision::nms does not exist')",
    "AttributeError": "import os; os.nothing",
    "SystemError": "raise SystemError('initialization failed')",
    "SyntaxError": "def broken(:",
    "ImportError": "raise ImportError('libcudart.so.12: cannot open shared object file')",
    "OSError": "raise OSError('libnvinfer.so.10: cannot open shared object file')",
    "KeyError": "raise KeyError('x' * 100_000)",
    "SystemExit": "raise SystemExit(0)",
    "MemoryError": "raise MemoryError",
    "RecursionError": "def f(): f()\nf()",
    "nothing in it": "",
    "module that is missing": "import no_such_module_at_all",
}
MODULES = ("onnxruntime", "tensorrt_rtx", "tensorrt", "polygraphy", "timm", "torchvision")
USERS: dict[str, tuple[object, ...]] = {
    "onnxruntime": ("parity", *MODEL, "--limit", "1", "--batches", "1", "--onnx"),
    "tensorrt_rtx": ("plan",),
    "polygraphy": ("parity", *MODEL, "--limit", "1", "--batches", "1", "--onnx"),
}


def command_case(name: str, *arguments: object) -> Case:
    return Case(name, lambda _: ("-q", *arguments))


def path_cases() -> Iterator[Case]:
    for option, arguments in PATHS.items():
        for name, value in LONG.items():
            yield command_case(f"{option}, {name}", *arguments, value)


def number_cases() -> Iterator[Case]:
    for option, arguments in COUNTS.items():
        for value in NUMBERS:
            name = f"{option} {value[:12]}, {len(value)} letters"
            yield command_case(name, *arguments, value)


def package_cases(honest: Path) -> Iterator[Case]:
    graph = honest / "engines" / f"{STEM}.onnx"
    for module in MODULES:
        for name, source in BROKEN.items():
            commands: list[tuple[object, ...]] = [("doctor",)]
            if module in USERS:
                commands.append(("-q", *USERS[module], graph))
            for command in commands:

                def make(
                    folder: Path,
                    module: str = module,
                    source: str = source,
                    command: tuple[object, ...] = command,
                ) -> tuple[object, ...]:
                    package = folder / "packages" / module
                    package.mkdir(parents=True)
                    (package / "__init__.py").write_text(source)
                    return command

                title = (
                    f"package {module}, {name}, {command[0] if command[0] != '-q' else command[1]}"
                )
                yield Case(title, make, (0, 1, 2, 3), packages="packages")


def cases(honest: Path, _: int) -> Iterator[Case]:
    """Every hostile option and package."""
    yield from path_cases()
    yield from number_cases()
    yield from package_cases(honest)
