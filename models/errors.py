"""What can go wrong with data and models.

ModelsError
 ├── DataError      a table, a target or a row that cannot be used
 ├── ScoredElsewhere  a model that is not here was asked to predict
 ├── PackageError   a model package that is damaged or of an unknown form
 └── TrainingError  no model could be trained
"""


class ModelsError(Exception):
    """The root of this package's errors; `code` is stable, the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the stable code beside the message."""
        super().__init__(message)
        self.code = code


class DataError(ModelsError):
    """A table, a target or a row cannot be used as it is; `column` where one value is to blame."""

    def __init__(self, code: str, message: str, column: str = "") -> None:
        """Keep the column beside code and message."""
        super().__init__(code, message)
        self.column = column


class ScoredElsewhere(ModelsError):  # noqa: N818 - a state
    """A model that predicts elsewhere was asked to predict."""

    def __init__(self, message: str) -> None:
        """Its code is its name."""
        super().__init__("scored_elsewhere", message)


class PackageError(ModelsError):
    """A model package is damaged, unknown or was made by a newer version."""


class TrainingError(ModelsError):
    """AutoPilot could not train a single model."""
