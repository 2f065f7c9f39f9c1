"""benchmark robustness: what a hostile network, damaged maps, kills and hours of work do to the node.

It takes how often each is done. It returns, for each, what went wrong: the node must not end, must track good images
afterwards, must not grow, and must count what it loses.
"""
