"""Reconstruction on another machine: the reconstructor `remote`, its server, and the messages between them."""
