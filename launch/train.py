"""The door for launchers: `deepspeed launch/train.py --ds_config FILE [--recipe FILE] [key=value ...]`."""

import sys

from mat_ds.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
