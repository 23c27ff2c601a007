"""``demo`` and ``doctor``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fewslice.cli.options import Json, Overwrite, Quiet
from fewslice.cli.text import progress

__all__ = ["demo", "doctor"]


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to put everything.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="Training time for the three strategies together.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Of the simulated volume and the training.")] = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Simulate a volume, train three strategies on 4 planes of it, predict, evaluate, count, report.

    Example: fewslice demo
    """
    from fewslice.demo import demo as run_demo

    with progress(quiet) as listener:
        result = run_demo(output, minutes=minutes, seed=seed, overwrite=overwrite, listener=listener)
    for line in result.summary:
        typer.echo(line)
    typer.echo(f"open {result.report} in a browser")


def doctor(as_json: Json = False) -> None:
    """Check device, memory, threads, disk and versions.

    Example: fewslice doctor
    """
    from fewslice.doctor import examine

    findings = examine(Path())
    if as_json:
        typer.echo(json.dumps([vars(f) for f in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'CARE'} {finding.name:<12} {finding.found}")
            if finding.advice:
                typer.echo(f"{'':<17} {finding.advice}")
