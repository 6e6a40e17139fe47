"""A family and a task that rmtkd-edge finds by their entry points."""
