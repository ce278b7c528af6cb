"""Writing fits and a report, killed at any call that writes, can be repeated."""

from pathlib import Path

import pytest
from killed import survives
from matplotlib.figure import Figure

from chinchilla.report import page
from chinchilla.report.figures import Drawing


@pytest.mark.parametrize("n_points", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_fits_and_report(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_points: int):
    """One figure is drawn, and one of an earlier report has to be removed."""
    (tmp_path / "earlier" / "report" / "figures").mkdir(parents=True)
    (tmp_path / "earlier" / "report" / "figures" / "loss_surface.png").touch()
    drawings = (
        Drawing("isoflop_curves", "A", Figure((1, 1)), ""),
        Drawing("loss_surface", "B", None, ""),
    )
    monkeypatch.setattr(page, "report_figures", lambda *args: [*drawings])
    monkeypatch.setattr(page.checks, "figure", lambda *args: drawings[1])

    def written(folder: Path) -> None:
        world.fits.save(folder / "fits")
        page.write_report(folder / "report", **world.report_inputs())

    survives(tmp_path / "earlier", tmp_path, written, n_points)
