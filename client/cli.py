"""`asdnet-site`: the commands of a hospital."""

import protocol.telemetry  # isort: skip

from reporting.commands import CommandGroup

app = CommandGroup(
    "asdnet-site",
    "A hospital's part: check its data, join the federation, segment new scans.",
    {
        "run": ("client.commands.run:run", "Join the federation, and train until stopped."),
        "check": ("client.commands.check:check", "Read every case as training would."),
        "enrol": ("client.commands.enrol:enrol", "Make this site's key, or show it again."),
        "approve": (
            "client.commands.approve:approve",
            "Look at studies and code of the centre, and decide.",
        ),
        "audit": ("client.commands.audit:audit", "Report what has come and what has left."),
        "predict": ("client.commands.predict:predict", "Segment scans with a trained model."),
        "score": ("client.commands.score:score", "Compare a label map with its reference."),
        "next-to-label": (
            "client.commands.next_to_label:next_to_label",
            "List the unlabelled scans, first those to be labelled next.",
        ),
        "units": ("client.commands.units:units", "Write a unit file for systemd."),
        "health": (
            "client.commands.health:health",
            "Say whether the site runs, for health checks.",
        ),
    },
    private=True,
)

if __name__ == "__main__":
    app()
