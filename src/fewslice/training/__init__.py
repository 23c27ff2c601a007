"""Training: stages, the one loop that runs them, its checkpoints and the run folder.

* `stage` – what a stage is.
* `fit` – the only loop: budget, precision, devices, schedule, averaging, checkpoints, log, progress, resume.
* `run_folder` – what a run leaves on disk.
* `segmentation` – the stage that trains one segmentation network, used by every strategy.
* `task` – what a strategy is handed.
* `budget` – minutes into steps.
"""
