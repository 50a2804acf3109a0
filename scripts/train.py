"""Trains what a config describes, then evaluates it, predicts, and says where everything lies.

The same command again continues the run; a larger --steps continues it further.
"""

import time

from absl import flags
from ml_collections import ConfigDict

from trainloop import launch
from trainloop.launch import summary


def main(config: ConfigDict, workdir: str) -> None:
    task = launch.build(config, workdir)
    trainer = task.trainer
    first_step = trainer.restore_or_initialize()
    began = time.perf_counter()
    history = trainer.fit(task.train_data, eval_data=task.eval_data, **task.fit)
    seconds = time.perf_counter() - began
    print(f"\ntrained {trainer.step - first_step} steps, to {trainer.step} in all, in {seconds:.1f} s")
    if history.stop_reason:
        print(f"stopped by {history.stop_reason}")
    if task.sets:
        last = list(task.sets)[-1]
        scores = {name: trainer.evaluate(data) for name, data in task.sets.items()}
        saved = launch.save_predictions(f"{workdir}/predictions.npz", trainer.predict(task.sets[last]))
        print(f"predicted the {last} set: {saved}\n\n{summary.score_table(scores)}")
    if not flags.FLAGS.dry_run:
        print(f"\nin {workdir}\n{summary.file_list(workdir)}")
        print(f"\nto go on\n  {summary.command_with(steps=2 * trainer.step)}")


if __name__ == "__main__":
    launch.run(main)
