"""Every error that ``exporters`` and ``swin_deploy`` raise on purpose.

DeployError
├── ConfigError          a model that cannot exist: sizes that windows cannot tile, unknown names
├── CheckpointError      a weights file that cannot be read, or does not fit its model
├── MissingBackendError  a package that is not installed; the message has the install command
├── ExportError          ONNX: export, conversion or check failed, or the file is not what was asked
├── BuildError           TensorRT: parse, build or plan failed, or an engine that cannot run here
├── ComparisonError      outputs that cannot be compared (names, shapes or types differ)
└── FileError            a file or folder that cannot be read or written

Each message is one line: the thing and its value, what was expected, and the next step. A result
that is out of tolerance is not an error: it is a value with ``passed=False``.
"""


class DeployError(Exception):
    """Base of the errors that a user can act on; the command line prints them as one line."""


class ConfigError(DeployError):
    """A model that cannot exist, or a name that is not known."""


class CheckpointError(DeployError):
    """A weights file that cannot be read, or that does not fit its model."""


class MissingBackendError(DeployError):
    """An optional package that is not installed, or a device that is not there."""


class ExportError(DeployError):
    """An ONNX file that could not be made or read, or is not what was asked for."""


class BuildError(DeployError):
    """An engine that could not be built, or cannot be used on this machine."""


class ComparisonError(DeployError):
    """Outputs that cannot be compared: missing, or of other names, shapes or types."""


class FileError(DeployError):
    """A file or folder that cannot be read or written."""
