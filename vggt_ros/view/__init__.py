"""Live view of a run in Rerun (https://rerun.io): in its native viewer, on a web page, or in a file.

`Scene` draws plain arrays in the z-up frame `map`; `SlamView` feeds it from the pipeline,
`vggt_ros/ros/tools/view_node.py` from the topics of the node. Only this wing imports rerun, which is an optional
dependency.
"""
