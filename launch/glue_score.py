"""The GLUE score of finished runs: `python launch/glue_score.py runs/cola-mat-... runs/sst2-mat-... ...`."""

import sys

from mat_ds.glue import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
