"""Other nodes of the same name, of which ROS says nothing."""

from __future__ import annotations

from rclpy.node import Node


def namesake_problems(node: Node) -> list[str]:
    """Return in one line, with the cure, that other nodes have the name of this one; empty if none has.

    Requests to services and parameters reach any of them, and all send the same topics and transforms. One that crashed
    is listed for 20 seconds more.
    """
    full = node.get_fully_qualified_name()
    count = sum(f"{namespace.rstrip('/')}/{name}" == full for name, namespace in node.get_node_names_and_namespaces())
    return [] if count < 2 else [f"{count} nodes are named {full}: their topics, transforms and services mix; end the "
                                 "others, or start each in a namespace of its own"]
