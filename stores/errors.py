"""The project's errors. Each says which item, what was found, what was expected and what to do."""


class TrakLensError(Exception):
    """Base class. Shown to a person as one message, never as a traceback."""

    def __init__(self, item: str, found: str, expected: str, remedy: str) -> None:
        self.item, self.found, self.expected, self.remedy = item, found, expected, remedy
        super().__init__(f"{item}: found {found}; expected {expected}. {remedy}")


class DataError(TrakLensError):
    """An image, a caption, a metadata file or a dataset folder that cannot be used."""


class ModelError(TrakLensError):
    """A model name, configuration or checkpoint that cannot be used."""


class StoreError(TrakLensError):
    """A store or run directory that is missing, damaged, foreign, newer or of another specification."""


class UsageError(TrakLensError):
    """Options that contradict each other or values outside their range."""
