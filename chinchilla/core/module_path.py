"""Keep files of the working folder from replacing modules of this process and its children."""

import contextlib
import os
import sys

import chinchilla


def exclude_working_folder() -> None:
    """Remove an empty entry of PYTHONPATH, which means the working folder, and set PYTHONSAFEPATH.

    Children of this process inherit both: workers, mirrors of trackers, the processes of a pool, and
    those that torch compiles in. PYTHONPATH=$PYTHONPATH:/a, where the variable was not set, begins with
    an empty entry; where the variable is not set or empty as a whole, there is none. Entries that are
    written out, such as ".", stay, and so does the folder of this package, from which an editable
    installation imports it.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    path = os.environ.get("PYTHONPATH")
    entries = path.split(os.pathsep) if path else []
    if "" not in entries or sys.flags.ignore_environment:
        return
    named = [entry for entry in entries if entry]
    os.environ["PYTHONPATH"] = os.pathsep.join(named)
    with contextlib.suppress(OSError):  # the working folder was removed
        working = os.getcwd()
        own = os.path.dirname(os.path.dirname(chinchilla.__file__))
        if working not in (own, *map(os.path.abspath, named)):
            sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != working]
