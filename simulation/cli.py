"""`asdnet-sim`: federations and experiments on one machine."""

import protocol.telemetry  # isort: skip

from reporting.commands import CommandGroup

app = CommandGroup(
    "asdnet-sim",
    "Federations of simulated hospitals, and the paper's experiments, on one machine.",
    {
        "run": ("simulation.commands.run:run", "Train one federation, and print its table."),
        "plan": ("simulation.commands.plan:plan", "Plan a study from the scans of a folder."),
        "tables": ("simulation.commands.tables:tables", "Train every row of the paper's tables."),
        "report": ("simulation.commands.report:report", "Write the HTML report of an experiment."),
        "picture": ("simulation.commands.picture:picture", "Draw a scan of each site."),
    },
)

if __name__ == "__main__":
    app()
