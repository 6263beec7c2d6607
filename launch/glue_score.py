"""The GLUE score of finished runs: `python launch/glue_score.py runs/cola-mat-... runs/sst2-mat-... ...`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Of the two things called evaluate, this folder's door and Hugging Face's package, imports mean the package.
    sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    from mat_ds.commands.glue_score import main

    sys.exit(main(sys.argv[1:]))
