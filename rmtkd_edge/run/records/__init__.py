"""One frozen dataclass per JSON document of a run directory, used by who writes it and by who reads it.

Units are in the names of the fields. A figure that was not measured is None, and the document says why.
"""
