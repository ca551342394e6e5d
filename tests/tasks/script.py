"""A training script that knows nothing about sweeper except its environment variables."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if "--log=first" in sys.argv:  # before slow imports, so that it is read before any file
    print('{"nll": 9.0, "progress": 0.1}', flush=True)

import numpy as np
from softmax import CLASSES, data, train  # type: ignore[import-not-found]


def deliver(split: str, number: int, weights: Any, **extra: Any) -> None:
    inputs, labels = data(split)
    folder = Path(os.environ["SWEEPER_DIR"])
    if args.labels == "meet" and number == 2:
        while len(list(folder.parent.glob("*/valid-0001.npz"))) < 2:
            time.sleep(0.01)  # until the other trial has reported, too
    if args.labels in ("shuffled", "meet") and args.epsilon:
        inputs, labels = inputs[::-1], labels[::-1]
    kept = {"logits": inputs @ weights, "labels": labels}
    if args.evidence == "per-example":
        logits = kept["logits"] - np.log(np.exp(kept["logits"]).sum(1, keepdims=True))
        rows = np.arange(len(labels))
        kept = {"nll": -logits[rows, labels], "correct": logits.argmax(1) == labels}
    np.savez(folder / "part.npz", **kept, **extra)
    os.replace(folder / "part.npz", folder / f"{split}-{number:04d}.npz")


def nll(weights: Any) -> float:
    inputs, labels = data("valid")
    logits = inputs @ weights
    rows = np.arange(len(labels))
    return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[rows, labels]))


def misbehave(epoch: int) -> None:
    folder = Path(os.environ["SWEEPER_DIR"])
    if args.then == "raise-first" and epoch == 2 and not args.epsilon:
        raise RuntimeError("device lost")
    if epoch != 2 or not float(os.environ["SWEEPER_EPSILON"]):
        return
    match args.then:
        case "raise":
            raise RuntimeError("device lost")
        case "exit":
            sys.exit(3)
        case "requeue" if not (folder / "again").exists():
            (folder / "again").touch()
            sys.exit(75)
        case "requeue-always":
            sys.exit(75)
        case "crash":
            print("about to crash", flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        case "leave":
            sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
            subprocess.Popen(sleeper, start_new_session=True)
        case "hang":
            time.sleep(600)
        case "resume" if not (folder / "checkpoint").exists():
            (folder / "checkpoint").write_text("1")
            time.sleep(600)
        case "memory":
            code = "import time; x = bytes([1]) * 2**30; time.sleep(600)"
            subprocess.run([sys.executable, "-c", code], start_new_session=True)
        case "bad-file":
            (folder / "valid-0009.npz").write_bytes(b"not an archive")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epsilon", type=float, default=float(os.environ["SWEEPER_EPSILON"]))
    parser.add_argument("--lr", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--evidence", default="scored")
    parser.add_argument("--then", default="")
    parser.add_argument("--labels", default="")
    parser.add_argument("--stop", type=int, help="ends after this epoch")
    parser.add_argument("--label_smoothing", type=float)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--log", default="")
    args = parser.parse_args()
    if args.config is not None:
        config = json.loads(args.config.read_text())
        assert config["optimizer"]["schedule"] == {"warmup": 2}
        args.lr, args.epochs = config["optimizer"]["lr"], config["epochs"]
    if args.label_smoothing is not None:
        args.epsilon = args.label_smoothing * (CLASSES - 1) / CLASSES
    seed = int(os.environ["SWEEPER_SEED"])
    if args.then == "downgrade" and args.epsilon:
        args.evidence = "per-example"
    print(f"training with {args.epsilon}")
    checkpoint = Path(os.environ["SWEEPER_DIR"]) / "checkpoint"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    if done:
        print(f"resumed after epoch {done}")
    for epoch, weights in enumerate(train(args.epsilon, args.lr, args.epochs, seed), 1):
        if epoch <= done:
            continue
        misbehave(epoch)
        if args.evidence == "self-reported":
            print(
                json.dumps({"nll": nll(weights), "progress": epoch / args.epochs, "epoch": epoch})
            )
        elif args.evidence == "pattern":
            print(f"epoch {epoch}: validation loss {nll(weights):.6f}")
        else:
            deliver("valid", epoch, weights, progress=epoch / args.epochs)
        if epoch == args.stop:
            break
    if args.log == "last":
        print('{"nll": 9.0, "progress": 1.0}')
    if args.then != "no-test" and "test" in os.environ["SWEEPER_SPLITS"].split(","):
        deliver("test", 1, weights)
