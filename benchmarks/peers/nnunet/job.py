"""One job of nnU-Net v2 for `benchmarks/beside_nnunet.py`: plan, measure, or train and predict.

    python job.py JOB.json

Runs in nnU-Net's environment, on the CPU.  Planner, preprocessing, network, loss, deep
supervision, rates, views and predictor are nnU-Net's own; only how many steps are taken is ours.
The variables nnUNet_raw, nnUNet_preprocessed and nnUNet_results name its folders.
"""

import json
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprints,
    plan_experiments,
    preprocess,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

DATASET, CONFIGURATION = 1, "3d_fullres"
WARM_UP = 2  # steps that are not timed


class TimedTrainer(nnUNetTrainer):
    """nnU-Net's trainer with a clock and without validation, pictures and checkpoints.

    An epoch is one step, so that its polynomial decay falls with every step and ends at the last.
    """

    def run_training(self):
        self.on_train_start()
        self.network.train()
        self.losses, self.marks = [], [(time.perf_counter(), time.process_time())]
        for step in range(self.num_epochs):
            self.lr_scheduler.step(step)
            self.losses.append(float(self.train_step(next(self.dataloader_train))["loss"]))
            self.marks.append((time.perf_counter(), time.process_time()))


def prepare(job):
    """Raw folder, fingerprint, plans, preprocessed scans, and the split."""
    raw = Path(nnUNet_raw) / f"Dataset{DATASET:03d}_{job['data']}"
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True, exist_ok=True)
    cases = job["train"] | job["validation"]
    for name, (image, label) in cases.items():
        link(image, raw / "imagesTr" / f"{name}_0000.nii.gz")
        link(label, raw / "labelsTr" / f"{name}.nii.gz")
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0} | job["organs"],
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    extract_fingerprints([DATASET], num_processes=job["processes"], show_progress_bar=False)
    folder = Path(nnUNet_preprocessed) / raw.name
    split = [{"train": sorted(job["train"]), "val": sorted(job["validation"])}]
    plans = {}
    for name, memory_gb in job["plans"].items():
        plan_experiments([DATASET], gpu_memory_target_in_gb=memory_gb, overwrite_plans_name=name)
        preprocess([DATASET], name, (CONFIGURATION,), (job["processes"],), show_progress_bar=False)
        plan = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        plans[name] = plan["configurations"][CONFIGURATION]
    (folder / "splits_final.json").write_text(json.dumps(split), encoding="utf-8")
    return {"plans": plans}


def link(source, target):
    if not target.is_symlink():
        target.symlink_to(source)


def trainer_of(job, steps):
    """Of a plan; everything random is seeded, and everything is on one thread."""
    seed = job["seed"]
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    [folder] = Path(nnUNet_preprocessed).glob(f"Dataset{DATASET:03d}_*")
    plans = json.loads((folder / f"{job['plans_name']}.json").read_text(encoding="utf-8"))
    described = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    trainer = TimedTrainer(
        plans=plans | {"continue_training": False},
        configuration=CONFIGURATION,
        fold=0,
        dataset_json=described,
        device=torch.device("cpu"),
    )
    trainer.num_epochs = steps
    return trainer


def speed(job):
    """Core seconds a step: as many steps as the time allows, after some that are not timed."""
    trainer = trainer_of(job, WARM_UP + 1)
    trainer.run_training()
    one = trainer.marks[-1][1] - trainer.marks[-2][1]
    trainer = trainer_of(job, WARM_UP + max(3, round(job["seconds"] / one)))
    trainer.run_training()
    first, last = trainer.marks[WARM_UP], trainer.marks[-1]
    steps = len(trainer.marks) - 1 - WARM_UP
    return {
        "seconds_a_step": (last[1] - first[1]) / steps,
        "steps": steps,
    }


def train(job):
    """The steps of the budget, then the test cases by nnU-Net's predictor, with its mirroring."""
    trainer = trainer_of(job, job["steps"])
    trainer.run_training()
    first, last = trainer.marks[0], trainer.marks[-1]
    started = time.perf_counter()
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=True,
        device=trainer.device,
        allow_tqdm=False,
    )
    trainer.network.eval()
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    predictions = Path(job["predictions"])
    predictions.mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential(
        [[image] for image in job["test"].values()],
        [str(predictions / name) for name in job["test"]],
    )
    return {
        "training_seconds": last[0] - first[0],
        "training_cpu_seconds": last[1] - first[1],
        "prediction_seconds": time.perf_counter() - started,
        "steps": job["steps"],
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "losses": trainer.losses,
    }


def main(path):
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    result = {"prepare": prepare, "speed": speed, "train": train}[job["stage"]](job)
    result["versions"] = {name: version(name) for name in ("nnunetv2", "torch", "numpy")}
    Path(job["result"]).write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
