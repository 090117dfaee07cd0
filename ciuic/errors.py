"""The errors that users of Ciuic can meet. Each carries its facts as attributes.

CiuicError                    anything a user can mend; exit code 2 at the command line
├── UsageError                an argument, prompt or placement pattern that cannot be used
│   └── ContextFull           a conversation that the model's context no longer holds
├── ShapeError                shapes or dtypes that do not fit
├── ModelFormatError          a model file that is missing, truncated, foreign or unsupported
├── PlacementError            no device can run an operator, or a plan does not fit
├── OutOfMemory               a memory tier is full
└── DeviceError               a device or its transport
    ├── DeviceNotFound        no such device here
    ├── OverlayMismatch       an overlay with another ABI, shape or checksum than expected
    ├── DeviceTimeout         a wait on hardware ended without an answer
    ├── TransferError         a buffer was used against its ownership or bounds
    ├── DescriptorError       the overlay refused or failed a descriptor
    └── ToolMissing           a program or package that a device needs is not installed
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Story:
    """What a device that failed was doing.

    Attributes
    ----------
    device
        URI.
    doing
        The task that failed, with the shapes of its inputs.
    before
        The last tasks and transfers before it, oldest first.
    """

    device: str
    doing: str
    before: tuple[str, ...]

    def __str__(self) -> str:
        before = ", ".join(self.before) or "nothing"
        return f"{self.device} was doing {self.doing}; before that: {before}"


class CiuicError(Exception):
    """Base of all errors that users of Ciuic can meet.

    Attributes
    ----------
    story : Story or None
        What the device was doing, if a device failed in a task.
    """

    exit_code = 2
    story: Story | None = None


class UsageError(CiuicError):
    """An argument, prompt or pattern cannot be used as given."""


class ContextFull(UsageError):
    """A conversation has more tokens than the model's context holds."""

    def __init__(self, *, tokens: int, context: int) -> None:
        self.tokens = tokens
        self.context = context
        super().__init__(
            f"the conversation has {tokens:,} tokens with this message, more than the {context:,} "
            "of the model's context"
        )


class ShapeError(CiuicError):
    """Shapes or dtypes do not fit together or do not fit the device."""


class ModelFormatError(CiuicError):
    """A model file is missing, truncated, foreign or holds something unsupported."""

    def __init__(self, path: object, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class PlacementError(CiuicError):
    """No device can run an operator, or a plan does not fit the devices."""


class OutOfMemory(CiuicError):
    """A memory tier cannot hold what was asked of it. Sizes are in bytes."""

    def __init__(self, tier: str, *, wanted: int, available: int, capacity: int) -> None:
        self.tier = tier
        self.wanted = wanted
        self.available = available
        self.capacity = capacity
        super().__init__(
            f"{tier}: {wanted:,} bytes wanted, {available:,} of {capacity:,} bytes available"
        )


class DeviceError(CiuicError):
    """A device or its transport failed."""


class DeviceNotFound(DeviceError):
    """No device answers to a name here."""

    def __init__(self, uri: str, reason: str) -> None:
        self.uri = uri
        self.reason = reason
        super().__init__(f"no device {uri!r}: {reason}")


class OverlayMismatch(DeviceError):
    """An overlay is not the one that was expected."""

    def __init__(self, what: str, *, expected: object, found: object) -> None:
        self.what = what
        self.expected = expected
        self.found = found
        super().__init__(f"overlay {what} must be {expected}, not {found}")


class DeviceTimeout(DeviceError):
    """A wait on hardware ended without an answer. ``status`` holds decoded register fields."""

    def __init__(self, waiting_for: str, *, seconds: float, status: dict[str, object]) -> None:
        self.waiting_for = waiting_for
        self.seconds = seconds
        self.status = status
        facts = ", ".join(f"{name}={value}" for name, value in status.items())
        super().__init__(f"no {waiting_for} within {seconds:g} s ({facts})")


class TransferError(DeviceError):
    """A buffer was used against its ownership or outside its bounds."""


class DescriptorError(DeviceError):
    """The overlay refused or failed a descriptor. ``code`` is a name of ``abi.Status``."""

    def __init__(self, code: str, *, opcode: str, index: int, reason: str) -> None:
        self.code = code
        self.opcode = opcode
        self.index = index
        super().__init__(f"descriptor {index} ({opcode}) ended with {code}: {reason}")


class ToolMissing(DeviceError):
    """A program or package that a device needs is not installed."""

    def __init__(self, what: str, *, needed_for: str, install: str) -> None:
        self.what = what
        self.install = install
        super().__init__(f"{needed_for} needs {what}, which is not installed; run: {install}")
