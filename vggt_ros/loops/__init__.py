"""Loop closure: finding places that the camera sees again, and verifying them before they enter the pose graph.

In go newly solved keyframes with their local features and place descriptors, and the map. Out come loop measurements in
the pose graph, and a message with the result for each candidate.
"""
