"""``python -m ppr_dist.data.synthetic``."""

from ppr_dist import cli
from ppr_dist.data.synthetic.catalogue import main

if __name__ == "__main__":
    cli.run(main)
