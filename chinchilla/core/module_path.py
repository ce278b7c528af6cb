"""Keep files of the working folder from replacing modules of this process and its children."""

import contextlib
import os
import sys


def exclude_working_folder() -> None:
    """Remove an empty entry of PYTHONPATH, which means the working folder, and set PYTHONSAFEPATH.

    Children of this process inherit both: workers, mirrors of trackers, the processes of a pool, and
    those that torch compiles in. PYTHONPATH=$PYTHONPATH:/a, where the variable was not set, begins with
    an empty entry. Entries that are written out, such as ".", stay.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if "" not in entries or sys.flags.ignore_environment:
        return
    named = [entry for entry in entries if entry]
    os.environ["PYTHONPATH"] = os.pathsep.join(named)
    with contextlib.suppress(OSError):  # the working folder was removed
        working = os.getcwd()
        if working not in map(os.path.abspath, named):
            sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != working]
