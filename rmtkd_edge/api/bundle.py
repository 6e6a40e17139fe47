"""`bundle`: a folder that measures the exported models on another device, offline."""

from __future__ import annotations

from rmtkd_edge.api.profile import refuse_unexported
from rmtkd_edge.profile.bundle import Bundle, write_bundle
from rmtkd_edge.profile.options import BundleOptions
from rmtkd_edge.run.lock import open_to_write

__all__ = ["Bundle", "BundleOptions", "bundle_run"]


def bundle_run(options: BundleOptions) -> Bundle:
    """Write a folder and its .tar.gz of a run for a device, and return where they are.

    Raises:
        UserError: the profile leaves the number of threads to the machine, or needs no bundle.
        RunDirError: nothing was exported, or the folder is there already and `force` is not set.
    """
    with open_to_write(options.run) as run:
        refuse_unexported(run)
        return write_bundle(run, options)
