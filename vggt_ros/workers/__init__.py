"""Windows solved ahead and elsewhere: by processes of this machine, or by a Ray cluster.

Windows that are expected go in, in their order; geometry comes out when the pipeline asks for a window, the same to the
bit as if it had been solved then. What a reconstructor takes from one window to the next goes with the requests.
"""
