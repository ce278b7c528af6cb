"""`chinchilla fetch`: download published measurements."""

from pathlib import Path

from chinchilla import config


def fetch(command: config.FetchCommand) -> int:
    """Write published measurements as a CSV of runs; print their source and licence."""
    from chinchilla.observations.fetch import fetch as download
    from chinchilla.observations.table import Observations

    source = download(command.points, Path(command.out), command.url, command.timeout_s)
    print(Observations.from_csv(Path(command.out)))
    print(f"source: {source.citation}")
    print(f"licence: {source.licence}")
    print(
        f"wrote {command.out}; fit it with `chinchilla fit observations={command.out} out_dir=DIR`"
    )
    return 0
