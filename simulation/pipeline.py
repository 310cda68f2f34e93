"""Names that the command `run` asks for."""

from rich.console import Console

from simulation.experiment.options import RunOptions

Options = RunOptions


def run_pipeline(options: RunOptions, console: Console) -> None:
    """Late, so that --help is quick."""
    from simulation.experiment.single import run_single

    run_single(options, console)
