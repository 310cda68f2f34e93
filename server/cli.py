"""`asdnet-centre`: the commands of the coordinating centre."""

import protocol.telemetry  # isort: skip

from reporting.commands import CommandGroup

_ADMISSION = "server.commands.provision"

app = CommandGroup(
    "asdnet-centre",
    "The coordinating centre: admit hospitals, run studies, keep the record.",
    {
        "init": (
            f"{_ADMISSION}:init",
            "Make a new centre: CA, certificate, and a key for studies.",
        ),
        "add-site": (f"{_ADMISSION}:add_site", "Admit a site by its public key."),
        "remove-site": (f"{_ADMISSION}:remove_site", "Admit a site no longer."),
        "renew": (f"{_ADMISSION}:renew", "Make a new server certificate from the same CA."),
        "list": (f"{_ADMISSION}:list_sites", "Show certificates and sites."),
        "superlink": ("server.commands.superlink:superlink", "Run Flower's SuperLink."),
        "plan": (
            "server.commands.plan:plan",
            "Plan a study from the sites' data.",
        ),
        "run": ("server.commands.run:run", "Start a study, or go on with one, and follow it."),
        "studies": ("server.commands.studies:studies", "Show every study and how it stands."),
        "report": ("server.commands.report:report", "Write the HTML report of a run."),
        "audit": ("server.commands.audit:audit", "Report what was sent, received and refused."),
    },
    private=True,
)

if __name__ == "__main__":
    app()
