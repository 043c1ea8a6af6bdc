"""What can go wrong with the facts.

StreamError
 ├── SettingsError     an environment variable that is unknown or ill-typed
 ├── JournalFull       the journal cannot take an event (full or broken disk, size bound)
 ├── Refused           a command that the fold refuses, with a code and an HTTP-like kind
 ├── LogUnavailable    the event log does not answer
 ├── QueryRejected     the event log refuses a query
 ├── NotYet            something that this process has to read first, and will
 │    └── Overtaken    a former owner of a partition wrote late: its fold is made again
 ├── Superseded        a partition has a later owner than this process
 └── Malformed         a message that cannot be read
"""


class StreamError(Exception):
    """The root of this package's errors."""


class SettingsError(StreamError):
    """The environment says something that we do not understand."""


class JournalFull(StreamError):  # noqa: N818 - a state, not a mistake
    """The journal cannot take this event."""


class Refused(StreamError):  # noqa: N818
    """The fold refuses a command: `kind` is conflict, unknown or invalid."""

    def __init__(self, kind: str, code: str, message: str) -> None:
        """Keep what the edge turns into a status."""
        super().__init__(message)
        self.kind, self.code = kind, code


class LogUnavailable(StreamError):  # noqa: N818
    """The event log is out of reach."""


class QueryRejected(StreamError):  # noqa: N818
    """The event log refused a query; the text is its reason."""


class NotYet(StreamError):  # noqa: N818
    """Something that this process has to read first, and will."""


class Overtaken(NotYet):
    """A former owner of a partition has written since it was taken over: the fold is made again from the log."""

    def __init__(self, partition: int) -> None:
        """Keep which one."""
        super().__init__(f"a former owner of partition {partition} wrote late")
        self.partition = partition


class Superseded(StreamError):  # noqa: N818
    """This process is no longer the owner of what it was about to write."""


class Malformed(StreamError):  # noqa: N818
    """A message that no version of ours can read."""
