"""Evaluates a stage on held-out conditions: `python evaluate.py run=<run> stage=<stage>`; stage=null is
the baseline.
"""

from apo.evaluate import main

if __name__ == "__main__":
    main()
