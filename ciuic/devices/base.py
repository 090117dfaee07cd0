"""What the runtime knows of a device: memory, a queue, and which kernels it has.

A device runs *kernels* of operators (`ciuic.ops`) on its own arrays. ``submit`` returns at once
with an `Event`; tasks of one device run in the order of their submission. Arrays are opaque
handles: only the device that made one may read it. Numpy arrays cross with ``upload`` and
``download``; a weight is uploaded once and stays.

A back end overrides the underscore methods and nothing else; this class checks, counts and
accounts for memory.
"""
