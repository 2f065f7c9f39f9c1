"""The exceptions of tf2, with the names and the hierarchy of tf2_py."""


class TransformException(Exception):
    """Base class: a transform is not available."""


class LookupException(TransformException):
    """A frame is not known."""


class ConnectivityException(TransformException):
    """Two frames are known, but no chain of transforms connects them."""


class ExtrapolationException(TransformException):
    """The chain is known, but not at the requested time."""


class InvalidArgumentException(TransformException):
    """The name of a frame is empty or starts with a slash."""
