"""`python run_recbole_cora.py --model=CoRA --dataset=ml-100k [--key=value ...]`: the same as `recbole-cora run ...`."""

import sys

from recbole_cora.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
