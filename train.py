"""Trains one stage: `python train.py stage=offline sampler=apo`. Run again, the same command continues."""

from apo.train import main

if __name__ == "__main__":
    main()
