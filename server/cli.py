"""`asdnet-centre`: the commands of the coordinating centre."""

import protocol.telemetry  # isort: skip

from reporting.commands import CommandGroup

_ADMISSION = "server.commands.provision"
_STEERING = "server.commands.steer"

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
        "serve": ("server.commands.serve:serve", "Keep studies going when nobody watches."),
        "pause": (f"{_STEERING}:pause", "Let a study rest until it is resumed."),
        "resume": (f"{_STEERING}:resume", "Let the service go on with a study."),
        "stop": (f"{_STEERING}:stop", "End a study."),
        "priority": (f"{_STEERING}:priority", "Have a study come before others."),
        "backup": ("server.commands.backup:backup", "Write the whole centre into one file."),
        "restore": ("server.commands.backup:restore", "Make the centre anew from a backup."),
        "studies": ("server.commands.studies:studies", "Show every study and how it stands."),
        "report": ("server.commands.report:report", "Write the HTML report of a run."),
        "audit": ("server.commands.audit:audit", "Report what was sent, received and refused."),
        "alerts": (
            "server.commands.alerts:alerts",
            "Show what is alerted, or test that alerts arrive.",
        ),
        "units": ("server.commands.units:units", "Write unit files for systemd."),
        "health": (
            "server.commands.health:health",
            "Say whether SuperLink and service run, for health checks.",
        ),
    },
    private=True,
)

if __name__ == "__main__":
    app()
