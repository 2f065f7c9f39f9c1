"""The errors of tf2, named and derived as in tf2_py."""


class TransformException(Exception):
    """Any reason why a transform is not to be had."""


class LookupException(TransformException):
    """A frame is not known."""


class ConnectivityException(TransformException):
    """Two frames are known, but no chain of transforms joins them."""


class ExtrapolationException(TransformException):
    """The chain is known, but not at the time that was asked for."""


class InvalidArgumentException(TransformException):
    """A frame's name is empty or begins with a slash."""
