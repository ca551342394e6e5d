"""The Hugging Face example as a script, which torchrun starts on two ranks."""

import os
import signal

from digits_huggingface import train  # type: ignore[import-not-found]

import sweeper

if __name__ == "__main__":
    run = sweeper.current_run()
    killed = os.environ.get("KILLED_RANK") == os.environ["RANK"]
    if killed and run.smoothing.epsilon and not (run.directory / "killed").exists():
        # Dies in the second epoch of the first attempt.
        from transformers import Trainer

        step = Trainer.training_step

        def dying_step(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            if self.state.epoch >= 1.5:
                (run.directory / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, *args, **kwargs)

        Trainer.training_step = dying_step
    try:
        train(run, epochs=3, examples=121)
    finally:
        print(f"rank {os.environ['RANK']} ended", flush=True)
