"""FedAvg by NVFLARE: `python job.py KIND ROUNDS SHAPES STAMPS PORT ADMIN_PORT`, KIND sim or poc.

Runs in an environment with nvflare and torch.  "poc" is NVFLARE's deployment of one machine: a
server and two clients as processes of their own, mutual TLS with certificates that it makes.
"""

import sys
from pathlib import Path

import yaml
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.lighter.provision import gen_default_project_config
from nvflare.recipe import PocEnv, SimEnv


def environment(kind: str, port: int, admin_port: int) -> SimEnv | PocEnv:
    """Where the job runs; everything it keeps is below the current folder."""
    if kind == "sim":
        return SimEnv(num_clients=2, num_threads=2, workspace_root=str(Path.cwd() / "sim"))
    project = Path.cwd() / "free-ports.yml"
    gen_default_project_config("dummy_project.yml", str(project))
    content = yaml.safe_load(project.read_text())
    (server,) = [p for p in content["participants"] if p["type"] == "server"]
    server |= {"name": "server", "fed_learn_port": port, "admin_port": admin_port}
    project.write_text(yaml.safe_dump(content))
    return PocEnv(num_clients=2, project_conf_path=str(project))


def main(kind: str, rounds: str, shapes: str, stamps: str, port: str, admin_port: str) -> None:
    """Run the job to its end."""
    recipe = FedAvgRecipe(
        name="same-weights",
        model={"class_path": "model.Weights", "args": {"shapes": shapes}},
        min_clients=2,
        num_rounds=int(rounds),
        train_script="client.py",
        train_args=stamps,
    )
    run = recipe.execute(environment(kind, int(port), int(admin_port)))
    print("result:", run.get_result(), "status:", run.get_status())


if __name__ == "__main__":
    main(*sys.argv[1:])
