"""Trackers: the event stream of a build, mirrored to the libraries that people keep curves in.

Each runs in a process of its own (`child.py`), which the build feeds through a queue and never
waits for (`mirror.py`): one that fails, hangs or is slow loses its own figures and nothing else.
"""
