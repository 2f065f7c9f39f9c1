"""Which topics belong together."""

from __future__ import annotations

from collections.abc import Iterable


def info_topic_of(image_topic: str) -> str:
    """Return the topic of the CameraInfo beside an image topic, by the convention of image_transport."""
    return namespace(image_topic) + "camera_info"


def nearest_info(image_topic: str, infos: Iterable[str]) -> str:
    """Return the topic among `infos` that belongs to an image topic; empty if there is none.

    The exact sibling comes first, then what shares the longest namespace with the images, then the first by name. The
    root namespace is part of every name: it does not make a topic a neighbor.
    """
    sibling, words = info_topic_of(image_topic), namespace(image_topic).strip("/").split("/")

    def shared(topic: str) -> int:
        others = namespace(topic).strip("/").split("/")
        return next((i for i, (one, two) in enumerate(zip(words, others, strict=False)) if one != two or not one),
                    min(len(words), len(others)))

    return min(infos, key=lambda topic: (topic != sibling, -shared(topic), topic), default="")


def is_beside(image_topic: str, info_topic: str) -> bool:
    """Return True if a CameraInfo's topic is in the namespace of the images."""
    return namespace(info_topic) == namespace(image_topic)


def namespace(topic: str) -> str:
    """Return the namespace of an image topic, or of a CameraInfo topic, with a slash at its end."""
    return topic.removesuffix("/compressed").rsplit("/", 1)[0] + "/"
